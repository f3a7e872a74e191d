"""The one class of errors that a user can cause and mend."""


class AsrDeployError(Exception):
    """A sentence that says what is wrong and what to do; the command line prints it and exits with code 2."""
