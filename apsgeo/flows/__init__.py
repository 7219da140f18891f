"""Invertible conditional maps q(x | y): base distributions and couplings."""

from apsgeo.flows.base import BasePosterior, GaussianBase, StandardNormalBase
from apsgeo.flows.coupling import ElementwiseAffine, GlobalCoupling, LocalCoupling
from apsgeo.flows.flow import ConditionalFlow, Conditioning

__all__ = [
    "BasePosterior",
    "ConditionalFlow",
    "Conditioning",
    "ElementwiseAffine",
    "GaussianBase",
    "GlobalCoupling",
    "LocalCoupling",
    "StandardNormalBase",
]
