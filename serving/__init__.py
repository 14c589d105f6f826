"""Serve a TensorFlow SavedModel as a stateless function, through TensorFlow's C library."""

__version__ = "0.3.0"  # as in pyproject.toml, which is not deployed
