"""One gappy field, filled with nothing but itself."""
