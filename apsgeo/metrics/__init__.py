"""Scores of predictions: of arrays in `scores`, of labelled data in `labelled`."""
