"""Ensembles and statistics on disk: written block by block, gone on with after a kill, added to."""
