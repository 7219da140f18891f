"""Log-densities of priors against the truth."""
