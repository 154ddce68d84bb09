"""The one error a user can meet: a sentence that says what is wrong and a hint that says what to do."""


class FlanliteError(Exception):
    """A user's mistake or a machine's limit; the command line prints it and exits with 1, without a traceback."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class NoRoomError(FlanliteError):
    """What is asked for does not fit into the memory there is."""
