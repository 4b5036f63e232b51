"""The pool: images, what people said of them, and where the loop stands, in one SQL store."""
