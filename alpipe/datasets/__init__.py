"""Data that the project makes by itself."""
