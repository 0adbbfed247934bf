"""Parts that all commands share: help from the module's docstring, verbosity, errors in one line."""

import argparse
import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from orchestrator.common.errors import UserError
from orchestrator.common.library_logging import prepare_libraries
from orchestrator.common.logs import Verbosity, configure
from orchestrator.common.redaction import redact, redact_tracebacks
from orchestrator.common.signals import interrupt_on_signals
from orchestrator.common.standard_streams import prepare_streams

EXIT_USER_ERROR, EXIT_INTERRUPTED = 2, 130


def make_parser(name: str, doc: str | None, exit_statuses: str = "") -> argparse.ArgumentParser:
    """Return the parser of `python -m NAME`.

    Args:
        name: the module.
        doc: its docstring; the first paragraph describes the command, the rest follows as examples.
        exit_statuses: last line of the help.
    """
    summary, _, examples = (doc or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog=f"python -m {name}",
        description=summary,
        epilog=f"examples:\n{examples}\n{exit_statuses}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--verbose", action="store_true", help="also print every report, checkpoint and drawn strength"
    )
    parser.add_argument(
        "--debug", action="store_true", help="print the libraries' logs, and tracebacks of errors too"
    )
    return parser


def prepare(options: argparse.Namespace) -> None:
    """Configure signals, output, logging and libraries by the parsed options.

    Called before libraries are imported.
    """
    interrupt_on_signals()
    prepare_streams()
    redact_tracebacks()
    prepare_libraries(options.debug)
    configure(Verbosity.DEBUG if options.debug else Verbosity(options.verbose))


def exit_status(options: argparse.Namespace, work: Callable[[], None]) -> int:
    """Do the work of a command; return 0, 2 after a user's error in one line, or 130 if interrupted."""
    try:
        prepare(options)
        with collector_paused():
            work()
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return EXIT_INTERRUPTED
    except UserError as error:
        if options.debug:
            raise
        print_error(error)
        return EXIT_USER_ERROR
    return 0


@contextmanager
def collector_paused() -> Iterator[None]:
    """Pause Python's garbage collector in the short part of a command, and exempt what exists after it.

    Most of it are libraries, which stay. The collector would search them several times while they are
    imported and once more at the end, which takes seconds.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def print_error(error: UserError) -> None:
    """Print one line without credentials to standard error."""
    print(f"error: {redact(str(error))}", file=sys.stderr)
