"""Kriging: a Gaussian process whose covariance depends on distance alone."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from apsgeo.baselines.base import Array, LinearBaseline
from apsgeo.domains import Domain
from apsgeo.measurement import Normals

__all__ = ["Kriging"]

_TINY_NOISE_VAR = 1e-4  # of the complete history, in standardized units, for conditioning
_BLOCK = 512  # nodes predicted at once, to keep the temporary arrays small


class Kriging(LinearBaseline):
    """Kriging of standardized anomalies with scikit-learn's `GaussianProcessRegressor`.

    Distances are chords through the unit sphere, on which every kernel that is valid in space is
    valid on the sphere (Yadrenko 1983); geodesic distances would not allow smooth kernels. The
    noise enters observation by observation.

    Args:
        normals: turn data into standardized anomalies and back; their seasonal standard deviation
            makes the process one of nearly unit variance everywhere.
        positions: (N, 3) on the unit sphere.
        kernel: a scikit-learn kernel on positions.
    """

    name: ClassVar[str] = "kriging"

    def __init__(self, normals: Normals, positions: Array, kernel: Any) -> None:
        super().__init__(normals)
        self.positions, self.kernel = positions, kernel

    @classmethod
    def fit(
        cls,
        domain: Domain,
        normals: Normals,
        fields: Tensor,
        season: Tensor,
        *,
        kernel: Any = None,
        nodes: int = 500,
        times: int = 60,
        seed: int = 0,
    ) -> Kriging:
        """Fit the kernel's parameters by marginal likelihood on a part of a history.

        Args:
            domain: with positions on the unit sphere.
            normals: of the history.
            fields: (time, 1, node) in the unit of the data.
            season: (time,).
            kernel: where the search starts; `default_kernel()` by default.
            nodes: size of the part, drawn in proportion to area.
            times: size of the part, drawn evenly.
            seed: of that draw.
        """
        rng = np.random.default_rng(seed)
        share = (domain.areas / domain.areas.sum()).numpy()
        node = rng.choice(len(share), min(nodes, int((share > 0).sum())), replace=False, p=share)
        time = rng.choice(len(fields), min(times, len(fields)), replace=False)
        anomalies = normals.standardize(fields[time].double(), season[time])[:, 0].numpy()
        positions = domain.positions.numpy()
        process = _regressor(
            default_kernel() if kernel is None else kernel,
            _TINY_NOISE_VAR,
            optimizer="fmin_l_bfgs_b",
        )
        process.fit(positions[node], anomalies[:, node].T)
        return cls(normals, positions, process.kernel_)

    def posterior(
        self, values: Array, mask: NDArray[np.bool_], noise_std: Array
    ) -> tuple[Array, Array]:
        """Return mean and standard deviation (N,) given one record's (N,) in anomalies."""
        process = _regressor(
            self.kernel, noise_std[mask] ** 2 if mask.any() else 1.0, optimizer=None
        )
        if mask.any():
            process.fit(self.positions[mask], values[mask])
        starts = range(0, len(self.positions), _BLOCK)
        parts = [process.predict(self.positions[s : s + _BLOCK], return_std=True) for s in starts]
        return np.concatenate([m for m, _ in parts]), np.concatenate([s for _, s in parts])


def default_kernel() -> Any:
    """Return the covariance that the search for its parameters starts from.

    Two Matern parts of smoothness 3/2, lengths in Earth radii, and a constant, since the mean of
    a month is not known (ordinary kriging). See benchmarks/ncep/kriging_choice.py.
    """
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern

    short = ConstantKernel(0.2) * Matern(0.1, nu=1.5)
    long = ConstantKernel(0.7) * Matern(0.25, nu=1.5)
    return short + long + ConstantKernel(0.1)


def _regressor(kernel: Any, noise_var: Any, optimizer: str | None) -> Any:
    try:
        from sklearn.gaussian_process import GaussianProcessRegressor
    except ImportError as error:
        raise ImportError(
            "kriging needs scikit-learn, which is not installed: pip install 'apsgeo[bench]'"
        ) from error
    return GaussianProcessRegressor(kernel, alpha=noise_var, optimizer=optimizer)
