"""Why a command cannot do what it was asked, in one line: what, where, what can be done."""


class Refusal(Exception):
    """The model is understood, and this cannot be done with it."""


class Unreadable(Refusal):
    """There is not a SavedModel that could be read."""
