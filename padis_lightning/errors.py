"""What ends a command with one sentence: input that cannot be used with exit code 2, a run that failed with 1."""


class InputError(ValueError):
    """Input that cannot be used; the message is one sentence with the value seen and the value wanted."""


class RunError(RuntimeError):
    """A run that failed on input that could be used; the message is one sentence."""
