"""nrcan: daily precipitation and temperature over eastern Canada, 1990."""
