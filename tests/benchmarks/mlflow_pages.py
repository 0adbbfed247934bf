"""MLflow at a thousand trials: how long recording them takes, and the pages that people look at.

    python -m tests.benchmarks.mlflow_pages [--trials 1000] [--points 30] [--loads 5] [--pictures FOLDER]

Needs Debian's postgresql and chromium, and kubectl. Starts the stack of the manifests, has
sweeps/miniature.yaml with as many seeds as it takes recorded by the product's own ledger and tracker (50
metrics a trial, two contact sheets and a sheet by strength, a version of one of three models; nothing is
trained), takes the same sweep up once more as a restart does, and times pages in headless Chromium:
seconds until the content is visible, median over the loads, each in a page of its own with the
browser's cache warm.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from playwright.sync_api import BrowserContext, Error, HttpCredentials, Page, ViewportSize, sync_playwright

from orchestrator.tracking.ui_view import QUERY
from tests.benchmarks.arguments import at_least, new_file
from tests.benchmarks.mlflow_load import Loaded, Pretender, planned
from tests.infra.tracking.stack import Stack, make_login

NAME = "thousand"
PATIENCE = 60_000
"""Milliseconds after which a page counts as not usable."""
WINDOW = ViewportSize(width=1600, height=1000)
A_TRIAL = "a[href*='/runs/']:has-text('-k')"
CHART = ".js-plotly-plot .main-svg"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--trials", type=at_least(100), default=1000, help="100 are needed to compare as many"
    )
    parser.add_argument("--points", type=at_least(2), default=30, help="of each curve")
    parser.add_argument("--loads", type=at_least(1), default=5, help="of each page")
    parser.add_argument("--pictures", type=new_file, help="a folder for a picture of each page")
    parser.add_argument("--json", type=new_file, help="where the figures go, for machines")
    options = parser.parse_args()
    with running() as stack:
        found = record(stack, options.trials, options.points)
        figures = {"recording": {k: v for k, v in vars(found).items() if k != "runs"}}
        print(json.dumps(figures), flush=True)
        figures["pages"] = Looker(stack, found, options.pictures).look(options.loads)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


@contextmanager
def running() -> Iterator[Stack]:
    """The stack, with the login of sweeps in this process's environment."""
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(Path(folder))
        try:
            stack.start()
            make_login(stack)
            for key, value in stack.secrets["mlflow-client"].items():
                os.environ[f"MLFLOW_TRACKING_{key.upper()}"] = value
            yield stack
        finally:
            stack.remove()


def record(stack: Stack, trials: int, points: int) -> Loaded:
    """A sweep to its end, and then a launch that only takes it up."""
    plan, storage = planned(trials, NAME), str(stack.folder / "storage")
    found = Pretender(plan, stack.uri, storage).load(points)
    began = time.monotonic()
    Pretender(plan, stack.uri, storage).take_up()
    found.restart_seconds = time.monotonic() - began
    return found


class Looker:
    """A person who looks at the pages, in a hurry."""

    def __init__(self, stack: Stack, found: Loaded, pictures: Path | None) -> None:
        self._found, self._pictures = found, pictures
        # As through a port-forward: the server answers to few names.
        self._uri = stack.uri.replace("127.0.0.1", "localhost")
        password = stack.secrets["tracking"]["admin-password"]
        self._login = HttpCredentials(username="admin", password=password)
        if pictures:
            pictures.mkdir(exist_ok=True)

    def look(self, loads: int) -> dict[str, list[float]]:
        """Seconds of each load of each page."""
        found: dict[str, list[float]] = {}
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path="/usr/bin/chromium", args=["--no-sandbox"] if os.geteuid() == 0 else []
            )
            context = browser.new_context(http_credentials=self._login, viewport=WINDOW)
            for name, (path, ready) in self._pages().items():
                found[name] = [self._load(context, name, path, ready) for _ in range(loads)]
                print(f"{name}: {statistics.median(found[name]):.1f} s", flush=True)
            browser.close()
        return found

    def _pages(self) -> dict[str, tuple[str, Callable[[Page], object]]]:
        """By name the address, and what waits for its content."""
        runs, here = self._found.runs, f"/experiments/{self._found.experiment}"
        one, whole = f"{here}/runs/{runs[0]}", f"{here}/runs/{self._found.parent}"
        return {
            # No trial is in it, whoever waits.
            "list, as MLflow opens it": (f"{here}/runs", shown(f"text=sweep {NAME}", 1)),
            "list, our view": (f"{here}/runs?{QUERY}", shown(A_TRIAL, 10)),
            "charts, as MLflow opens them": (f"{here}/runs?compareRunsMode=CHART", shown(CHART, 6)),
            "charts, our view": (f"{here}/runs?{QUERY}&compareRunsMode=CHART", shown(CHART, 6)),
            "20 runs compared": (compared(runs[:20], self._found.experiment), shown(CHART, 1)),
            "100 runs compared": (compared(runs[:100], self._found.experiment), shown(CHART, 1)),
            "a trial": (one, shown("text=attribute_accuracy", 1)),
            "a trial's curves": (f"{one}/model-metrics", shown(CHART, 6)),
            "a trial's picture": (f"{one}/artifacts/negative_prompts.png", drawn),
            "the sweep's table": (f"{whole}/artifacts/comparison.json", shown("text=unet-epsilon-k", 5)),
            "the sweep's picture": (f"{whole}/artifacts/comparison.png", drawn),
            "models": ("/models", shown(f"text={NAME}-unet-epsilon", 1)),
            "a model's versions": (f"/models/{NAME}-unet-epsilon", shown("text=Version", 10)),
        }

    def _load(self, context: BrowserContext, name: str, path: str, ready: Callable[[Page], object]) -> float:
        page = context.new_page()
        began = time.monotonic()
        try:
            page.goto(f"{self._uri}/#{path}")
            ready(page)
            seconds = time.monotonic() - began
        except Error as error:
            print(f"{name}: {str(error).splitlines()[0]}", flush=True)
            seconds = float("inf")
        if self._pictures:
            page.wait_for_timeout(3000)
            page.screenshot(path=self._pictures / f"{name.replace(' ', '-')}.png")
        page.close()
        return seconds


def shown(selector: str, count: int) -> Callable[[Page], object]:
    """Waits until as many of these are visible."""
    return lambda page: page.locator(selector).nth(count - 1).wait_for(state="visible", timeout=PATIENCE)


def drawn(page: Page) -> None:
    """Waits until a large picture is there, whole."""
    large = "[...document.images].some(each => each.complete && each.naturalWidth > 400)"
    page.wait_for_function(large, timeout=PATIENCE)


def compared(runs: list[str], experiment: str) -> str:
    return f"/compare-runs?runs={quote(json.dumps(runs))}&experiments={quote(json.dumps([experiment]))}"


if __name__ == "__main__":
    main()
