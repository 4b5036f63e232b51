"""From predictions to one number an image, and from numbers to the images chosen."""
