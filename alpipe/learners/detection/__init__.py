"""The parts of the dense detector: targets, losses, and decoding to boxes."""
