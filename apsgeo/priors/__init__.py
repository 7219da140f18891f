"""What signals look like before measuring."""
