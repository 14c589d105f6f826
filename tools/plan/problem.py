"""What stops a plan."""


class PlanError(Exception):
    """Something given cannot be used; its message is one line that names it, what was expected and what came."""
