"""Figures of ensembles; needs the extra ``apsgeo[plot]``."""
