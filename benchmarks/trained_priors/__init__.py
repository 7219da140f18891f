"""Trained diffusion priors on five data sets."""
