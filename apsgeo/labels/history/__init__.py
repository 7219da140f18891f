"""Labelled histories: their gaps filled, their trend fitted."""
