"""Training: the fit loop and the objectives."""
