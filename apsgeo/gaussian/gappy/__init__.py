"""Gaussian priors of histories with gaps: leading patterns by EM, and gaps filled with members."""
