"""ebsd: a map of crystal orientations with real gaps."""
