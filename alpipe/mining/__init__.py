"""Hard negatives: what a model took for an object although nobody labelled one there."""
