"""era5-quarter-degree-d2m and -tp: a year of ERA5 monthly means on its full grid."""
