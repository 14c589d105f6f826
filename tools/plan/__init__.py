"""Before a model is deployed: what it will need, how fast it will answer and what it will cost.

`python -m serving plan` measures a model on this machine and simulates the platform's scaling rules under a shape of
traffic. Nothing under serving/ depends on it.
"""


class PlanError(Exception):
    """An argument or a file cannot be used; the message is one line: its name, what was expected, what came."""
