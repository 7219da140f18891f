"""bunny: the Stanford bunny, a closed triangle mesh."""
