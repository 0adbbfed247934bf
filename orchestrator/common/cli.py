"""What the three commands have in common: help out of the module's docstring, a mistake told in one line."""

import argparse
import sys
from collections.abc import Callable

from orchestrator.common.errors import UserError
from orchestrator.common.redaction import redact, redact_tracebacks

EXIT_USER_ERROR = 2


def make_parser(name: str, doc: str | None, end: str = "") -> argparse.ArgumentParser:
    """The parser of `python -m NAME`: the first paragraph of `doc`, its examples, and `end` as last words."""
    summary, _, examples = (doc or "").partition("\n\n")
    return argparse.ArgumentParser(
        prog=f"python -m {name}",
        description=summary,
        epilog=f"examples:\n{examples}\n{end}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def exit_status(work: Callable[[], None]) -> int:
    """Does `work`; 0, or 2 and one line without secrets if the user has something to mend."""
    redact_tracebacks()
    try:
        work()
    except UserError as error:
        tell(error)
        return EXIT_USER_ERROR
    return 0


def tell(error: UserError) -> None:
    """One line, without secrets."""
    print(f"error: {redact(str(error))}", file=sys.stderr)
