"""Every rival in one run: contests of methods on the same measurements, over a cluster."""
