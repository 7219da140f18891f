"""Scores of predictions, on arrays; those of labelled ensembles are in `apsgeo.evaluation`."""
