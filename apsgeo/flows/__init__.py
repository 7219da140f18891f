"""Invertible conditional maps q(x | y): base distributions and couplings."""

from apsgeo.flows.base import BasePosterior, GaussianBase, StandardNormalBase
from apsgeo.flows.coupling import ChannelMixing, ElementwiseMap, GlobalCoupling, LocalCoupling
from apsgeo.flows.elementwise import Affine, Elementwise, Spline
from apsgeo.flows.flow import ConditionalFlow, Conditioning
from apsgeo.flows.spectral import SpectralConditioning, SpectralFlow

__all__ = [
    "Affine",
    "BasePosterior",
    "ChannelMixing",
    "ConditionalFlow",
    "Conditioning",
    "Elementwise",
    "ElementwiseMap",
    "GaussianBase",
    "GlobalCoupling",
    "LocalCoupling",
    "SpectralConditioning",
    "SpectralFlow",
    "Spline",
    "StandardNormalBase",
]
