"""Files and folders of labelled sets: finding images, naming what a folder looks like, writing a new one."""
