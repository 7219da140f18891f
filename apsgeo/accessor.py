"""The functions of apsgeo as ``array.aps`` and ``dataset.aps``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import xarray as xr

from apsgeo.errors import InputError
from apsgeo.xarray import impute

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from apsgeo.domains import Domain
    from apsgeo.labels.noise import NoiseStd
    from apsgeo.labels.quality import Control
    from apsgeo.labels.shared import SharedError
    from apsgeo.operators import Operator
    from apsgeo.posterior import Posterior
    from apsgeo.statistics import Statistic
    from apsgeo.statistics.areas import Region

__all__ = ["ApsAccessor"]


@xr.register_dataset_accessor("aps")
@xr.register_dataarray_accessor("aps")
class ApsAccessor:
    """The functions of apsgeo for a DataArray, or for the variables of a Dataset together.

    Examples:
        >>> import numpy as np
        >>> images = xr.Dataset({"u": (("y", "x"), np.zeros((2, 3)))})
        >>> images.aps.domain
        ImageDomain(2 x 3)
    """

    def __init__(self, obs: xr.DataArray | xr.Dataset) -> None:
        self._obs = obs

    @property
    def domain(self) -> Domain:
        """The domain that the labels say; see `apsgeo.domain_of`."""
        from apsgeo.labels.channels import as_array
        from apsgeo.labels.layout import domain_of

        return domain_of(as_array(self._obs))

    def regrid(
        self,
        target: Domain | xr.DataArray,
        method: Literal["bilinear", "conservative"] = "bilinear",
    ) -> Any:
        """Bring the array, or each variable, to another domain; see `apsgeo.regrid`."""
        from apsgeo.labels.regridding import regrid

        if isinstance(self._obs, xr.Dataset):
            each = {name: regrid(self._obs[name], target, method) for name in self._obs.data_vars}
            return xr.Dataset(each, attrs=self._obs.attrs)
        return regrid(self._obs, target, method)

    def plot(
        self,
        observed: xr.DataArray | None = None,
        *,
        record: int = 0,
        members: int = 2,
        projection: Any = None,
    ) -> Figure:
        """Draw a record's mean, spread, members and observations, in a projection of cartopy.

        See `apsgeo.plotting.ensemble.plot_ensemble`.
        """
        from apsgeo.plotting.ensemble import plot_ensemble

        return plot_ensemble(
            self._obs, observed, record=record, members=members, projection=projection
        )

    def plume(
        self, regions: Mapping[str, Region] | None = None, truth: xr.DataArray | None = None
    ) -> Figure:
        """Draw means by area over time; see `apsgeo.plotting.ensemble.plot_plume`."""
        from apsgeo.plotting.ensemble import plot_plume

        return plot_plume(self._obs, regions, truth=truth)

    def rank_histogram(self, truth: xr.DataArray, observed: xr.DataArray | None = None) -> Figure:
        """Draw the ranks of the truth; see `apsgeo.plotting.ensemble.plot_rank_histogram`."""
        from apsgeo.plotting.ensemble import plot_rank_histogram

        return plot_rank_histogram(self._members, truth, observed)

    def reliability(self, truth: xr.DataArray, observed: xr.DataArray | None = None) -> Figure:
        """Draw how many truths intervals cover; see `apsgeo.plotting.ensemble.plot_reliability`."""
        from apsgeo.plotting.ensemble import plot_reliability

        return plot_reliability(self._members, truth, observed)

    @property
    def _members(self) -> xr.DataArray:
        if isinstance(self._obs, xr.Dataset):
            raise InputError("give one variable of the data set, such as ensemble['air'].aps")
        return self._obs

    def impute(
        self,
        posterior: Posterior | None = None,
        members: int = 64,
        seed: int = 0,
        noise_std: NoiseStd | None = None,
        operator: Operator | None = None,
        quality_control: Control = "flag",
        window: int | None = None,
        *,
        statistics: Iterable[str | Statistic] | str | None = None,
        shared_error: SharedError | Sequence[SharedError] | None = None,
    ) -> Any:
        """Draw the complete fields behind the observed ones; see `apsgeo.impute`."""
        options = (noise_std, operator, quality_control, window)
        obs: Any = self._obs
        further: Any = {"statistics": statistics, "shared_error": shared_error}
        return impute(obs, posterior, members, seed, *options, **further)
