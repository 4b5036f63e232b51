"""How good a model is on the frozen hold-out."""
