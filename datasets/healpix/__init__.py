"""z500-healpix and oisst-healpix: monthly fields on HEALPix pixels."""
