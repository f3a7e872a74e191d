"""The one class of errors that a user can cause and mend, and those of them that a device causes."""


class AsrDeployError(Exception):
    """A sentence that says what is wrong and what to do; the command line prints it and exits with code 2."""


class DeviceFailed(AsrDeployError):
    """The device, its connection, or what ran on it broke off; the command line exits with code 3: another try may do."""
