"""Learning curves compared: areas, tests, labels saved. Pure functions over a table; no images, no models."""
