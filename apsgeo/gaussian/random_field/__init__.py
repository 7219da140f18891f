"""Random fields on any domain, whose covariance is learned from one gappy field or a few."""
