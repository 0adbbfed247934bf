"""Errors that are the user's to mend: one line that says what, where and what to do."""

BEGINNING, END = 700, 300
"""Characters shown of a message that quotes something endless."""


class UserError(Exception):
    """Shown as one line, without a traceback; `run` exits with 2, before anything has started."""

    def __init__(self, message: str) -> None:
        """`message` may quote what a user wrote: line breaks and the like are shown escaped."""
        whole = len(message) <= BEGINNING + END
        shown = message if whole else f"{message[:BEGINNING]} ... {message[-END:]}"
        super().__init__("".join(c if c.isprintable() else ascii(c)[1:-1] for c in shown))


class UnfinishedError(UserError):
    """The launch got this far and no further; `run` exits with 1, and the same command goes on."""
