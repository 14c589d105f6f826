"""The steps of building the container image."""
