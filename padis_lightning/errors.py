"""The exceptions that the command line turns into one sentence: exit code 2 for input, 1 for a run."""


class InputError(ValueError):
    """Input that cannot be used; the message is one sentence with the value seen and the value wanted."""


class RunError(RuntimeError):
    """A run that ended before its end, or whose images failed; the message is one sentence."""
