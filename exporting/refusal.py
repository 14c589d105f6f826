"""The errors of the commands. Each message is one line: the problem, its place, the remedy."""


class Refusal(Exception):
    """The model can be read, and the operation is not possible with it."""


class Unreadable(Refusal):
    """There is no SavedModel, or it cannot be read."""
