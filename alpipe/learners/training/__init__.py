"""What all built-in learners share: reading, augmenting, training, saving, streaming."""
