"""The exceptions that the command line turns into one sentence and an exit code."""


class InputError(ValueError):
    """Input that cannot be used (exit code 2); the message is one sentence with the value seen and the value wanted."""


class RunError(RuntimeError):
    """A run that ended before its end, or whose images failed (exit code 1); the message is one sentence."""
