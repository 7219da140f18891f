"""Files of others: netCDF, its groups and its attributes."""
