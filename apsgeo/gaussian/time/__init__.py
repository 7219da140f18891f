"""Records that follow each other: a memory, and the exact posterior given neighbours."""
