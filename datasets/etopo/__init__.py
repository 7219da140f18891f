"""etopo and etopo-patches: the relief of the Earth."""
