"""ocean-mesh: an ocean model's state on its triangle mesh."""
