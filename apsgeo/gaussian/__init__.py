"""Gaussian priors, their mixtures, and their exact posteriors."""
