"""Adopts results whose folder was moved or copied, so that sweeps, models and reports in it work again.

    mv results /data/results
    python -m orchestrator.relocate /data/results
    python -m orchestrator.run sweeps/miniature.yaml --storage /data/results

The folder's MLflow and the results of trials name the absolute path at which they were recorded. Other
commands refuse a folder that lies elsewhere now, and name this one. Only the given folder is changed: after
a copy, the original stays as it is. A bucket, or results that an MLflow server records, need none of this.
"""

import argparse
import json
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

from orchestrator.common.cli import exit_status, make_parser

if TYPE_CHECKING:
    from orchestrator.common.storage import Store


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit status."""
    options = _parser().parse_args(arguments)
    return exit_status(options, lambda: _relocate(options.storage))


def _parser() -> argparse.ArgumentParser:
    end = "exit status: 0, or 2 if the folder holds no results or is in use."
    parser = make_parser("orchestrator.relocate", __doc__, end)
    parser.add_argument("storage", metavar="FOLDER", help="where the results are now")
    return parser


def _relocate(folder: str) -> None:
    from orchestrator.common.storage import Store
    from orchestrator.execution.lock import SweepLock
    from orchestrator.tracking.relocation import record_place, recorded_place

    store = Store(folder)
    old = recorded_place(store)
    if old is None:
        print(f"{store.root}: is where it was recorded; nothing to do")
        return
    sweeps = [name for name in store.folders() if store.files(f"{name}/results")]
    with ExitStack() as locks:
        for sweep in sweeps:
            locks.enter_context(SweepLock(store, sweep))
        for name in (name for sweep in sweeps for name in store.files(f"{sweep}/results")):
            _replace_place(store, name, old)
        # Last, so that after an interruption the same command finds the old place again.
        record_place(store, old)
    print(f"{store.root}: recorded here now, no longer at {old}")


def _replace_place(store: "Store", name: str, old: str) -> None:
    """Replace the path `old` in the JSON file `name`, which names checkpoints by it."""
    before, now = (json.dumps(f"{place}/")[1:-1] for place in (old, store.root.removeprefix("file://")))
    content = store.read(name).decode()
    for start in ('"', '"file://'):
        content = content.replace(start + before, start + now)
    store.write(name, content.encode())


if __name__ == "__main__":
    sys.exit(main())
