"""oisst: NOAA Optimum Interpolation sea surface temperature, monthly means."""
