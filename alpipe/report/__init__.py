"""One HTML file that says how the project went."""
