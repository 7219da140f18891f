"""Diffusion priors: denoisers, schedules, samplers, log-densities, training."""
