"""Strategies: how to choose the images that are worth a person's time, one module each."""
