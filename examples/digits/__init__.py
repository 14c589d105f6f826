"""How the embedded model was made, from real data: `python -m examples.digits`."""
