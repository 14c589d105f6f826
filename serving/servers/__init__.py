"""Adapters between each server's requests and ours, and how each server is started."""
