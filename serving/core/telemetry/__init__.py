"""Logs, phases of the start, metrics and traces."""
