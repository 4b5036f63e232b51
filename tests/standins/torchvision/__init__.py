"""Stands in for torchvision where it is not installed: tiny networks behind those names that alpipe uses."""

from torchvision import models as models

__version__ = "0.0+standin"
