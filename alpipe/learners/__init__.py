"""Learners: one module each. What they share lies in the sub-packages."""
