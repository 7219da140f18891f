"""What is asked of a history: none at all, or records that follow each other in time."""
