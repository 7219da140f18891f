"""co2: a simulated field of carbon dioxide, and observations of it along a satellite's orbits."""
