"""What is asked of a history: gaps in it, and a climate that moves on."""
