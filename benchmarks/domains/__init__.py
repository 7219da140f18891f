"""Every domain: impute, denoise and super-resolve held-out fields."""
