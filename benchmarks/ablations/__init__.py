"""What each part is worth where the posterior is known."""
