"""The parts of training a classifier."""
