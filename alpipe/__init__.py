"""alpipe: from a folder of unlabelled images to a good model with as little labelling as possible."""

__version__ = "0.2.0"
