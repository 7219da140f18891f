"""z500, z200 and v200: NCEP reanalysis, monthly means on pressure levels."""
