"""What one network evaluation is worth on ncep-air: scores and seconds of every posterior."""
