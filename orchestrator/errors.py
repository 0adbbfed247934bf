"""Errors that are the user's to mend: one line that says what, where and what to do."""


class UserError(Exception):
    """Shown as one line, without a traceback; `run` exits with 2, before anything has started."""
