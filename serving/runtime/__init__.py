"""A loaded model: TensorFlow's C library or LiteRT, batching, warm-up, and the model that this process serves."""
