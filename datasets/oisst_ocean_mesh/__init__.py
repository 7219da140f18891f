"""oisst-ocean-mesh: sea surface temperature on the nodes of an ocean model's mesh."""
