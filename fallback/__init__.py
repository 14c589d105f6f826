"""Serving where TensorFlow's C library is not in the wheel: the same interface, through its Python package."""
