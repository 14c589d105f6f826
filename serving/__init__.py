"""Serve a TensorFlow SavedModel as a stateless function, through TensorFlow's C library."""
