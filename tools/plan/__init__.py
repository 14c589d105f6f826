"""Estimates before a deployment: the resources that a model needs, its latency and its cost.

`python -m serving plan` measures a model on this machine and simulates the platform's scaling rules under a shape of
traffic. Nothing under serving/ depends on it.
"""


class PlanError(Exception):
    """An argument or a file cannot be used; the message is one line: its name, expected, got."""
