"""Networks, written once over the layers that a domain lends."""

from apsgeo.nn.function_space import FunctionSpaceNet
from apsgeo.nn.unet import SIZES, ConvNet, FourierEmbedding, UNet

__all__ = ["NETWORKS", "SIZES", "ConvNet", "FourierEmbedding", "FunctionSpaceNet", "UNet"]

NETWORKS: list[type[UNet] | type[FunctionSpaceNet]] = [UNet, FunctionSpaceNet]
"""Those that a diffusion prior may have, by their `kind`."""
