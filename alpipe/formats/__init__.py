"""Labelled data in and out: one module a format."""
