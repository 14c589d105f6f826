"""What can go wrong with a file, by what is to be done about it."""


class BadFile(Exception):
    """The file can never be scored; the text says why. Nobody has recorded it yet."""


class Gone(Exception):
    """The object, or that generation of it, is not there any more; or it was never a file."""


class Passing(Exception):
    """Storage, memory or the model failed for now: another attempt goes on where this one ended."""
