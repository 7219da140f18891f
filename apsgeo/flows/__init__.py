"""Invertible conditional maps q(x | y): base distributions and couplings."""

from apsgeo.flows.base import (
    BasePosterior,
    FixedBase,
    GaussianBase,
    Moments,
    StandardNormalBase,
    Start,
)
from apsgeo.flows.coupling import ChannelMixing, ElementwiseMap, LocalCoupling
from apsgeo.flows.elementwise import Affine, Elementwise, Spline
from apsgeo.flows.flow import ConditionalFlow, Conditioning, Flow, NodeConditioning
from apsgeo.flows.patterns import GlobalAutoregressive, GlobalCoupling
from apsgeo.flows.spectral import SpectralConditioning, SpectralFlow

__all__ = [
    "Affine",
    "BasePosterior",
    "ChannelMixing",
    "ConditionalFlow",
    "Conditioning",
    "Elementwise",
    "ElementwiseMap",
    "FixedBase",
    "Flow",
    "GaussianBase",
    "GlobalAutoregressive",
    "GlobalCoupling",
    "LocalCoupling",
    "Moments",
    "NodeConditioning",
    "SpectralConditioning",
    "SpectralFlow",
    "Spline",
    "StandardNormalBase",
    "Start",
]
