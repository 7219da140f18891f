"""What is asked of a history: gaps in it, a climate that moves on, and records beside each one."""
