"""Riemannian manifolds in which the values of a field lie: directions, rotations, tensors."""
