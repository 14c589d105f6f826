"""The errors of scoring a file, one for each way to handle them."""


class BadFile(Exception):
    """The file can never be scored; the text says why. The caller has to record it."""


class Gone(Exception):
    """The object, or that generation of it, no longer exists, or it is a folder's placeholder."""


class TemporaryFailure(Exception):
    """Storage, memory or the model failed temporarily: another attempt continues where this one ended."""
