"""The bench: the real loop, arm by arm and seed by seed, on a labelled set whose answers are known."""
