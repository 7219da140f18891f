"""Scores of predictions, on arrays; those of labelled ensembles are in `apsgeo.evaluation`."""

from apsgeo.metrics.predictions import EnsemblePrediction, NormalPrediction, Prediction
from apsgeo.metrics.scoreboard import Scoreboard, Scores
from apsgeo.metrics.scores import (
    coverage,
    covered,
    crps_ensemble,
    crps_normal,
    energy_score,
    ensemble_variance,
    mse,
    rmse,
    spread_skill,
    weighted_mean,
)

__all__ = [
    "EnsemblePrediction",
    "NormalPrediction",
    "Prediction",
    "Scoreboard",
    "Scores",
    "coverage",
    "covered",
    "crps_ensemble",
    "crps_normal",
    "energy_score",
    "ensemble_variance",
    "mse",
    "rmse",
    "spread_skill",
    "weighted_mean",
]
