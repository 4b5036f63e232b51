"""The parts of training a segmenter."""
