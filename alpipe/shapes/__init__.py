"""Shapes out of files and servers, each checked: boxes, outlines, brush strokes, regions of Label Studio."""
