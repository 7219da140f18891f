"""Diffusion of fields whose values lie on a compact manifold."""
