"""era5: from ERA5 as you have it, files or a Zarr store, to the analysis-ready data set."""

from apsgeo.datasets.era5.recipe import open_era5

__all__ = ["open_era5"]
