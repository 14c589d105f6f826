"""The image and what is done when it is built."""
