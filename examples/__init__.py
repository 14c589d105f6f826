"""Examples: how a model is trained and exported."""
