"""Errors that the user can correct: one line that states what is wrong, where, and what to do."""

BEGINNING, END = 700, 300
"""Characters that are kept of a long message."""


class UserError(Exception):
    """An error in a sweep file, a backbone, a path or a service; printed as one line, with exit status 2."""

    def __init__(self, message: str) -> None:
        """Shorten `message`, and escape line breaks and control characters that it quotes."""
        whole = len(message) <= BEGINNING + END
        shown = message if whole else f"{message[:BEGINNING]} ... {message[-END:]}"
        super().__init__("".join(c if c.isprintable() else ascii(c)[1:-1] for c in shown))


class UnfinishedError(UserError):
    """A launch that ended early, with exit status 1; the same command resumes it."""
