"""What a field costs by number of nodes."""
