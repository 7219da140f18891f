"""Is a posterior right? With simulated truth by calibration; without, by importance weights."""
