"""What becomes of a student: drawn at every strength, scored, described, registered.

Tune runs the drawing (see `search`); a thread of the driver does the rest, one student after the
other, while trainings go on.
"""

import shutil
import tempfile
import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from orchestrator.common.digests import digest
from orchestrator.common.storage import Store
from orchestrator.config.ranking import STRENGTH_METRICS, describe_arm, find_score, first_measured
from orchestrator.data.prompt_encoding import PromptSet
from orchestrator.evaluation.inference_task import InferenceJob
from orchestrator.evaluation.scoring import EXAMPLE, load_measured, score
from orchestrator.evaluation.strength_curve import Arm, best, curve
from orchestrator.planning.inference import InferenceTrial
from orchestrator.planning.plan import Plan, Trial
from orchestrator.reporting.contact_sheet import strength_sheet
from orchestrator.results.ledger import Entry, Ledger, last_line
from orchestrator.results.model_card import NEGATIVES, SAMPLES, model_card
from orchestrator.tracking import Tracker, log_curve, name_champion, register_student
from workloads.scorers.score import Score
from workloads.settings.train import AttentionGuidanceSettings
from workloads.students.defaults import save_defaults

SCORED_TOGETHER = 4
"""Students that may wait for others before they are scored."""
SHEET_PAIRS = 8
"""Rows of the contact sheet: the first pairs."""


@dataclass
class _Student:
    """One student on its way."""

    entry: Entry
    jobs: list[InferenceJob]
    left: int
    """Jobs that Tune has not finished."""
    failures: list[str]


class Students:
    """Every student of a launch, from its training's end to the registry."""

    def __init__(
        self,
        plan: Plan,
        store: Store,
        ledger: Ledger,
        tracker: Tracker,
        prompts: PromptSet,
        references: Mapping[str, str],
        teachers: Mapping[str, Sequence[Score]],
    ) -> None:
        """`references` and `teachers` (scores) are by source of the backbone."""
        self._plan, self.store, self._ledger, self._tracker = plan, store, ledger, tracker
        self._prompts, self._references, self._teachers = prompts, references, teachers
        self._queue: deque[InferenceJob] = deque()
        self._students: dict[str, _Student] = {}
        self._ripe: list[_Student] = []
        self._thread = ThreadPoolExecutor(1, "students")
        self._conclusions: list[Future[None]] = []

    def ready(self, trial: Trial) -> None:
        """A student is there: its small trials join the queue, less those that are done."""
        jobs = [self._job(trial, infer) for infer in self._plan.infer_trials(trial)]
        entry = self._ledger.entries[trial.digest]
        if entry.model and entry.concluded == self._search():
            return
        todo = [job for job in jobs if not self.store.exists(job.measured)]
        student = _Student(entry, jobs, len(todo), [])
        self._students[trial.digest] = student
        self._queue.extend(todo)
        if not todo:
            self._all_drawn(student)

    @property
    def waiting(self) -> int:
        """Small trials that are not over."""
        return sum(student.left for student in self._students.values())

    @property
    def queued(self) -> int:
        """Small trials that have not been started."""
        return len(self._queue)

    def next_job(self) -> InferenceJob:
        """The next of them."""
        return self._queue.popleft()

    def put_back(self, job: InferenceJob) -> None:
        """It could not be started; the next to be."""
        self._queue.appendleft(job)

    def drawn(self, job: InferenceJob, error: str) -> None:
        """A small trial is over; the last of a student has it scored."""
        student = self._students[job.infer.student]
        student.left -= 1
        if error:
            student.failures.append(f"{job.infer.name}: {last_line(error)}")
            self._ledger.say(student.failures[-1])
        if student.left == 0:
            self._all_drawn(student)

    def close(self) -> list[str]:
        """Waits for the last student; returns what failed, a line each."""
        self._flush()
        self._thread.shutdown()
        for conclusion in self._conclusions:
            conclusion.result()
        return [line for student in self._students.values() for line in student.failures]

    def abandon(self) -> None:
        """The launch ends early: what has not prefetch_first is left to the next one."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _search(self) -> str:
        plan = self._plan.infer
        if plan is None:
            return "none"
        return digest([plan.digest, [vars(arm) for arm in plan.arms], plan.infer.max_accuracy_loss])[:12]

    def _job(self, trial: Trial, infer: InferenceTrial) -> InferenceJob:
        assert self._plan.infer is not None
        return InferenceJob(
            infer,
            self._plan.infer.pairs,
            self._plan.infer.infer.pictures,
            self._plan.infer.seed,
            self._references[trial.source],
            self.store.root,
            f"{self._plan.sweep.name}/trials/{trial.digest}/student",
            self._plan.sweep.name,
        )

    def _all_drawn(self, student: _Student) -> None:
        """Students that are drawn at about the same time are scored by one pool of actors."""
        self._ripe.append(student)
        if self.waiting == 0 or len(self._ripe) == SCORED_TOGETHER:
            self._flush()

    def _flush(self) -> None:
        if self._ripe:
            self._conclusions.append(self._thread.submit(self._conclude, self._ripe))
            self._ripe = []

    def _conclude(self, students: Sequence[_Student]) -> None:
        """Scores them together, then finishes one after the other; on the thread."""
        self._guarded(students, lambda: self._score(students))
        for student in students:
            self._guarded([student], partial(self._finish, student))

    def _guarded(self, students: Sequence[_Student], work: Callable[[], None]) -> None:
        """What cannot be scored or registered stops no other student; the same command retries."""
        try:
            work()
        except Exception as error:
            for student in students:
                line = f"{student.entry.trial.name}: {last_line(str(error)) or repr(error)}"
                student.failures.append(line)
                self._ledger.say(line)
                self._tracker.log_text(student.entry.run, traceback.format_exc(), "error.txt")

    def _score(self, students: Sequence[_Student]) -> None:
        if self._plan.infer is not None:
            drawn = [job for student in students for job in student.jobs if self.store.exists(job.drawn)]
            score(drawn, self._plan.infer.infer, self.store)

    def _finish(self, student: _Student) -> None:
        """Chooses its strength, describes and registers it."""
        entry, search = student.entry, self._plan.infer
        sheet = b""
        default = AttentionGuidanceSettings()
        if search is not None:
            jobs = [job for job in student.jobs if self.store.exists(job.measured)]
            if jobs and jobs[0] is student.jobs[0]:
                arms, sheet = self._arms(jobs)
                chosen = best(arms, search.infer.max_accuracy_loss)
                entry.curve, entry.best = [arm.as_row() for arm in arms], chosen.as_row()
                default = chosen.guidance
                entry.strengths = f"{self._plan.sweep.name}/trials/{entry.trial.digest}/strengths.png"
                self.store.write(entry.strengths, sheet)
                log_curve(self._tracker, entry.run, entry.curve, entry.best, sheet)
        entry.model = self._register(entry, default, sheet)
        self._ledger.write(entry)
        if not student.failures:
            # Only once the curve is recorded: else a launch that dies now would lose it.
            self._tracker.then(partial(self._concluded, entry))
        self._ledger.say(f"{entry.trial.name}: {_found(entry)}registered as {entry.model}")

    def _concluded(self, entry: Entry) -> None:
        entry.concluded = self._search()
        self._ledger.write(entry)

    def _arms(self, jobs: Sequence[InferenceJob]) -> tuple[list[Arm], bytes]:
        assert self._plan.infer is not None
        infer = self._plan.infer.infer
        tables = [(job.infer.guidance, load_measured(self.store, job)) for job in jobs]
        examples = [(guidance, [bytes(png) for png in table[EXAMPLE] if png]) for guidance, table in tables]
        shown = self._plan.infer.pairs[:SHEET_PAIRS]
        return curve(tables, infer.scorers), strength_sheet(shown, examples, jobs[0].infer.student_name)

    def _register(self, entry: Entry, default: AttentionGuidanceSettings, sheet: bytes) -> str:
        """The student's folder, with its card and its default strength, as a model; its URI."""
        trial, sweep = entry.trial, self._plan.sweep
        pairs = self._plan.infer.pairs if self._plan.infer else ()
        negative = pairs[0].negative_prompt if pairs else "blurry"
        made_by = {"sweep": sweep.name, "MLflow run": entry.run}
        place = f"{sweep.name}/trials/{trial.digest}/student"
        with self.store.folder(place) as own, tempfile.TemporaryDirectory() as copy:
            folder = Path(copy) / "student"
            shutil.copytree(own, folder)
            save_defaults(folder, default)
            teacher = self._teachers[trial.source]
            card = model_card(entry, self._prompts.source, teacher, negative, made_by, folder)
            (folder / "README.md").write_text(card, encoding="utf-8")
            if entry.sheet:
                (folder / SAMPLES).write_bytes(self.store.read(entry.sheet))
            if sheet:
                (folder / NEGATIVES).write_bytes(sheet)
            self.store.put_folder(folder, place)
            example = (sweep.evaluate.sheet_prompts[0], negative if pairs else "", default.strength)
            name, search = f"{sweep.name}-{trial.backbone.name}", self._search()
            return self._tracker.ask(lambda: register_student(entry.run, folder, name, example, search))


def assign_champion_aliases(entries: Sequence[Entry], metric: str | None) -> set[str]:
    """Gives the best student of each backbone the alias `champion`; the digests of their trials.

    Best is the highest of `metric`, that trials are ranked by; without it the best at its best strength,
    by HPSv2 or CLIP+; without scores, nobody is.
    """
    champions: dict[str, Entry] = {}
    # Sorted upwards, so that the last of a backbone is its best.
    values = [(_value(entry, metric), entry) for entry in entries if entry.model]
    scored = [(value, entry) for value, entry in values if value is not None]
    for _, entry in sorted(scored, key=lambda pair: pair[0]):
        champions[entry.trial.backbone.name] = entry
    for entry in champions.values():
        found = {score.metric: f"{score.value:.4f}" for score in entry.scores}
        tags = {"guidance_interval": entry.trial.interval, "base_model": entry.trial.backbone.model, **found}
        if entry.best:
            tags |= {"guidance": entry.best["label"], "strength": f"{entry.best['strength']:g}"}
        name_champion(entry.model, tags)
    return {entry.trial.digest for entry in champions.values()}


def _value(entry: Entry, metric: str | None) -> float | None:
    score = find_score(entry.scores, metric)
    if score is not None:
        return score.value
    found = {each["metric"]: float(each["value"]) for each in entry.best.get("scores", [])}
    return found.get(first_measured(STRENGTH_METRICS, found) or "")


def _found(entry: Entry) -> str:
    if not entry.curve:
        return ""
    return f"best {describe_arm(entry.best)}, "
