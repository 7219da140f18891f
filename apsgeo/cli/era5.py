"""``apsgeo era5``: one file of ERA5 that is there already."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from apsgeo.cli.options import Overwrite, refuse_existing

__all__ = ["EXAMPLE", "era5"]

EXAMPLE = "apsgeo era5 t2m-1979.nc t2m-1980.nc era5.nc --coarsen 4"


def era5(
    sources: Annotated[
        list[str],
        typer.Argument(metavar="SOURCE...", help="CDS netCDF files, folders of them, or Zarr."),
    ],
    output: Annotated[Path, typer.Argument(metavar="OUTPUT.nc", help="The file to make.")],
    variable: Annotated[
        list[str] | None,
        typer.Option(help="One to take; may be repeated. All by default.", show_default=False),
    ] = None,
    years: Annotated[
        tuple[int, int] | None,
        typer.Option(metavar="FIRST LAST", help="All by default.", show_default=False),
    ] = None,
    coarsen: Annotated[int, typer.Option(help="Cells to average along each side.")] = 1,
    healpix_level: Annotated[
        int | None,
        typer.Option(help="Average onto HEALPix pixels of this order.", show_default=False),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Make one analysis-ready file of ERA5 that you have, on its own grid or a coarser one."""
    refuse_existing(output, overwrite)
    from apsgeo.datasets.era5 import open_era5
    from apsgeo.io import write_netcdf

    dataset = open_era5(sources, variable, years, coarsen, healpix_level)
    write_netcdf(dataset, output, overwrite=overwrite)
    typer.echo(f"{output}: {', '.join(map(str, dataset))} {dict(dataset.sizes)}")
