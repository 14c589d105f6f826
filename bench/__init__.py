"""Measurements: what a request and a cold start cost, beside the naive function and the floor."""
