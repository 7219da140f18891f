"""One flow for all measurements against one for each."""
