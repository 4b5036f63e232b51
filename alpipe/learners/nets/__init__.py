"""Network blocks and the networks made of them. Nothing here knows of images on disk, classes or training."""
