"""`python -m serving evaluate`: logged predictions against the labels that came later, joined by key."""
