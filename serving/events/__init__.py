"""CloudEvents in, answers out."""
