"""Networks, written once over the layers that a domain lends."""

from apsgeo.nn.function_space import FunctionSpaceNet
from apsgeo.nn.unet import SIZES, ConvNet, FourierEmbedding, UNet

__all__ = ["SIZES", "ConvNet", "FourierEmbedding", "FunctionSpaceNet", "UNet"]
