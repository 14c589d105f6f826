"""What a SavedModel says, read from its files without loading it and without TensorFlow."""
