"""The parts of the detectors: labels, assignment, regions, windows, losses, and decoding to boxes."""
