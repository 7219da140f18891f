"""The fit loop, which knows no model; its checkpoints; several processes."""
