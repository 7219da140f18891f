"""The functions of apsgeo as ``array.aps`` and ``dataset.aps``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import xarray as xr

from apsgeo.xarray import impute

if TYPE_CHECKING:
    from apsgeo.domains import Domain
    from apsgeo.labels.noise import NoiseStd
    from apsgeo.labels.quality import Control
    from apsgeo.labels.shared import SharedError
    from apsgeo.operators import Operator
    from apsgeo.posterior import Posterior
    from apsgeo.statistics import Statistic

__all__ = ["ApsAccessor"]


@xr.register_dataset_accessor("aps")
@xr.register_dataarray_accessor("aps")
class ApsAccessor:
    """The functions of apsgeo for a DataArray, or for the variables of a Dataset together.

    Examples:
        >>> import numpy as np
        >>> images = xr.Dataset({"u": (("y", "x"), np.zeros((2, 3)))})
        >>> images.aps.domain
        ImageDomain(2, 3)
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
