"""The one exception for input that cannot be used: the command line turns it into one sentence and exit code 2."""


class InputError(ValueError):
    """Input that cannot be used; the message is one sentence with the value seen and the value wanted."""
