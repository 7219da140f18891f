"""Networks, written once over the layers that a domain lends."""

from apsgeo.nn.unet import ConvNet, FourierEmbedding, UNet

__all__ = ["ConvNet", "FourierEmbedding", "UNet"]
