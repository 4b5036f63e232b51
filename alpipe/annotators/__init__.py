"""Annotators: where questions go and answers come from, one module each."""
