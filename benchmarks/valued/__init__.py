"""Benchmark of values on manifolds: directions, orientations, tensors."""
