"""Boxes, outlines and brush strokes as files give them, to the labels of alpipe and back. Pure functions."""
