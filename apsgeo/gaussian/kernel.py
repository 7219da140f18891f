"""A Gaussian prior whose covariance is a kernel of positions: kriging."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import numpy as np
import torch
from scipy.linalg import cholesky
from torch import Tensor

from apsgeo.domains.base import Domain
from apsgeo.errors import InputError
from apsgeo.gaussian.localised import DenseSystem
from apsgeo.gaussian.prior import GaussianPrior
from apsgeo.gaussian.systems import System

__all__ = ["KernelPrior"]

_TINY_NOISE_VAR = 1e-4  # noise of the complete history, standardized, for conditioning
_JITTER = 1e-8  # share of the variance, by which the covariance of all nodes is factorized


class KernelPrior(GaussianPrior):
    """A zero-mean Gaussian prior of one channel whose covariance depends on positions alone.

    Its posterior is kriging. Distances on a sphere are chords: with them every kernel that is valid
    in space is valid on the sphere (Yadrenko 1983), where geodesic distances would not allow smooth
    kernels. A posterior is solved in the space of its observations. The first draw factorizes the
    covariance of all nodes.

    Args:
        domain: Domain of the signal.
        kernel: A scikit-learn kernel on the positions of the nodes.
    """

    kind = "kernel"
    exact_marginals = True

    def __init__(self, domain: Domain, kernel: Any) -> None:
        super().__init__()
        self.name = "kriging"
        self.domain, self.kernel, self.channels = domain, kernel, 1
        self.draw_dim = domain.num_nodes
        self.loadings = torch.zeros(1, domain.num_nodes, 0)
        self._positions = domain.positions.numpy()

    @classmethod
    def fit(
        cls,
        domain: Domain,
        fields: Tensor,
        *,
        kernel: Any = None,
        nodes: int = 500,
        times: int = 60,
        seed: int = 0,
    ) -> KernelPrior:
        """Fit the kernel's parameters by marginal likelihood on a part of a history.

        Args:
            domain: Domain of the fields.
            fields: Standardized anomalies (time, 1, node).
            kernel: Kernel where the search starts; `default_kernel` of the domain by default.
            nodes: Number of nodes of the part, drawn in proportion to area among those whose
                anomalies are not always zero, as on land.
            times: Number of fields of the part, drawn evenly.
            seed: Seed of that draw.

        Raises:
            InputError: If the fields have more than one channel.
        """
        from sklearn.gaussian_process import GaussianProcessRegressor

        if fields.shape[1] != 1:
            raise InputError(
                f"kriging is of one channel, and the fields have {fields.shape[1]}; fit a hybrid "
                "prior to all, or krige each channel alone."
            )
        rng = np.random.default_rng(seed)
        varies = (fields != 0).any(0)[0]
        share = torch.where(varies, domain.areas, 0.0).double().numpy()
        share /= share.sum()
        node = rng.choice(len(share), min(nodes, int((share > 0).sum())), replace=False, p=share)
        time = rng.choice(len(fields), min(times, len(fields)), replace=False)
        process = GaussianProcessRegressor(
            default_kernel(domain) if kernel is None else kernel, alpha=_TINY_NOISE_VAR
        )
        process.fit(domain.positions.numpy()[node], fields[time].double()[:, 0, node].numpy().T)
        return cls(domain, process.kernel_)

    def __repr__(self) -> str:
        return f"KernelPrior({self.domain!r}, {self.kernel})"

    @property
    def variance(self) -> Tensor:
        """Marginal variance (channel, node)."""
        return self._as_signal(np.asarray(self.kernel.diag(self._positions), dtype=np.float64))

    def covariance(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Return the block C[rows, columns], float64."""
        return np.asarray(self.kernel(self._positions[rows], self._positions[columns]))

    @cached_property
    def _root(self) -> np.ndarray:
        matrix = np.asarray(self.kernel(self._positions))
        matrix[np.diag_indices_from(matrix)] *= 1.0 + _JITTER
        return cholesky(matrix, lower=True, overwrite_a=True, check_finite=False)

    def draw(self, noise: np.ndarray) -> np.ndarray:
        """Map noise (draw_dim, m) to prior draws (size, m)."""
        return self._root @ noise

    def make_system(self, observed: np.ndarray, noise_var: np.ndarray) -> System:
        """Return the dense system of an observed set."""
        return DenseSystem(self, observed, noise_var)


def default_kernel(domain: Domain) -> Any:
    """Return the covariance that the search for its parameters starts from.

    It has two Matern parts of smoothness 3/2, whose lengths are in proportion to the domain, and a
    constant, since the mean of a month is not known (ordinary kriging). See
    benchmarks/ncep/kriging_choice.py.
    """
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern

    extent = math.sqrt(float(domain.areas.sum()) / (4.0 * math.pi))  # of a whole sphere, one
    short = ConstantKernel(0.2) * Matern(0.1 * extent, nu=1.5)
    long = ConstantKernel(0.7) * Matern(0.25 * extent, nu=1.5)
    return short + long + ConstantKernel(0.1)
