"""ncep-air: NCEP/NCAR Reanalysis 1 monthly mean air temperature."""
