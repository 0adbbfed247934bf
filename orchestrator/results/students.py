"""Students after their training: drawn at every scale and strength, scored, described and registered.

Ray Tune runs the drawing (see `execution.search`). A thread of the driver does the rest, one student
after the other, while trainings continue.
"""

import logging
import shutil
import tempfile
import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from orchestrator.common.digests import digest
from orchestrator.common.storage import Store
from orchestrator.data.prompt_encoding import PromptSet
from orchestrator.evaluation.scoring import score
from orchestrator.evaluation.strength_curve import best, best_scale
from orchestrator.jobs import InferenceJob
from orchestrator.planning.inference import PLAIN, InferenceTrial
from orchestrator.planning.plan import MINIATURE, Plan, Trial, describe_lora
from orchestrator.reporting.formatting import describe_arm
from orchestrator.results.ledger import Ledger, last_line
from orchestrator.results.model_card import NEGATIVES, SAMPLES, model_card
from orchestrator.results.record import TrialRecord
from orchestrator.results.second_search import arms_of, scale_sheet, strength_sheet
from orchestrator.tracking.client import Tracker
from orchestrator.tracking.registry import register_student, registered_students
from orchestrator.tracking.strength_curve import log_curve
from workloads.backbones.loras.entry import TeacherSource
from workloads.scorers.score import Score
from workloads.settings.train import AttentionGuidanceSettings
from workloads.students.defaults import save_defaults
from workloads.students.origin import Origin, save_origin

logger = logging.getLogger(__name__)
SCORED_TOGETHER = 4
"""Students that wait for each other before one pool of actors scores them."""
SHEET_PAIRS = 8
"""Rows of the contact sheet of pairs by strength: the first pairs."""


@dataclass(frozen=True)
class TeacherReferences:
    """References of the sweep's teachers."""

    files: Mapping[TeacherSource, str]
    """Files in the storage."""
    scores: Mapping[TeacherSource, Sequence[Score]]
    """Scores of the teachers' own pictures."""


@dataclass
class _Student:
    """One student between its training and the registry; Tune has not finished `left` of its jobs."""

    record: TrialRecord
    jobs: list[InferenceJob]
    left: int
    failures: list[str]


class Students:
    """Every student of a launch, from its training's end to the registry."""

    def __init__(
        self, plan: Plan, store: Store, ledger: Ledger, tracker: Tracker, prompts: PromptSet,
        teachers: TeacherReferences,
    ) -> None:  # fmt: skip
        """Start with no student; `ready` adds one."""
        self._plan, self.store, self._ledger, self._tracker = plan, store, ledger, tracker
        self._prompts, self._teachers = prompts, teachers
        self._queue: deque[InferenceJob] = deque()
        self._students: dict[str, _Student] = {}
        self._drawn: list[_Student] = []
        self._thread = ThreadPoolExecutor(1, "students")
        self._conclusions: list[Future[None]] = []

    def ready(self, trial: Trial) -> None:
        """Queue the small trials of a finished student, except for those that have a result."""
        jobs = [self._job(trial, infer) for infer in self._plan.infer_trials(trial)]
        record = self._ledger.records[trial.digest]
        if record.concluded == self._search_digest(trial) and record.model in self._registered:
            return
        todo = [job for job in jobs if not self._over(job)]
        student = _Student(record, jobs, len(todo), [])
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
        """Take the first small trial off the queue."""
        return self._queue.popleft()

    def put_back(self, job: InferenceJob) -> None:
        """Return a small trial that could not be started to the front of the queue."""
        self._queue.appendleft(job)

    def drawn(self, job: InferenceJob, error: str) -> None:
        """Record the end of a small trial; the last one of a student has the student scored."""
        student = self._students[job.infer.student]
        student.left -= 1
        logger.debug("%s: drawn, %d strengths left", job.infer.name, student.left)
        if error:
            student.failures.append(f"{job.infer.name}: {last_line(error)}")
            logger.error("%s", student.failures[-1])
        if student.left == 0:
            self._all_drawn(student)

    def close(self) -> list[str]:
        """Wait for the last student; return one line for each failure."""
        self._flush()
        self._thread.shutdown()
        for conclusion in self._conclusions:
            conclusion.result()
        return [line for student in self._students.values() for line in student.failures]

    def abandon(self) -> None:
        """Drop the students that are not concluded; the next launch concludes them."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _over(self, job: InferenceJob) -> bool:
        return all(self.store.exists(name) for name in job.results)

    @cached_property
    def _registered(self) -> set[str]:
        """URIs of the students that MLflow has; anyone can delete them on its pages."""
        names = {_model_name(self._plan, trial) for trial in self._plan.trials}
        return set().union(*(self._tracker.ask(partial(registered_students, name)) for name in names))

    def _search_digest(self, trial: Trial) -> str:
        plan = self._plan.infer
        if plan is None or not self._plan.infer_trials(trial):
            return "none"
        arms = [vars(arm) for arm in plan.arms]
        return digest([plan.digest, arms, plan.infer.max_accuracy_loss, *plan.scales])[:12]

    def _job(self, trial: Trial, infer: InferenceTrial) -> InferenceJob:
        plan = self._plan.infer
        assert plan is not None
        return InferenceJob(
            infer=infer,
            pairs=plan.pairs,
            pictures=plan.infer.pictures,
            seed=plan.seed,
            reference=self._teachers.files[trial.teacher],
            root=self.store.root,
            student=self._folder(trial, "student"),
            folder=self._plan.sweep.name,
            gpus=plan.infer.gpus,
            evaluate=plan.evaluate,
        )

    def _folder(self, trial: Trial, name: str) -> str:
        return f"{self._plan.sweep.name}/trials/{trial.digest}/{name}"

    def _all_drawn(self, student: _Student) -> None:
        """Collect students that are drawn at about the same time for one pool of scoring actors."""
        self._drawn.append(student)
        if self.waiting == 0 or len(self._drawn) == SCORED_TOGETHER:
            self._flush()

    def _flush(self) -> None:
        if self._drawn:
            self._conclusions.append(self._thread.submit(self._conclude, self._drawn))
            self._drawn = []

    def _conclude(self, students: Sequence[_Student]) -> None:
        """Score the students together, then finish one after the other; runs on the thread."""
        self._guarded(students, lambda: self._score(students))
        for student in students:
            self._guarded([student], partial(self._finish, student))

    def _guarded(self, students: Sequence[_Student], work: Callable[[], None]) -> None:
        """Do `work`; a failure is recorded and stops no other student. The same command retries it."""
        try:
            work()
        except Exception as error:
            for student in students:
                line = f"{student.record.name}: {last_line(str(error)) or repr(error)}"
                student.failures.append(line)
                logger.error("%s", line)
                self._tracker.log_text(student.record.run, traceback.format_exc(), "error.txt")

    def _score(self, students: Sequence[_Student]) -> None:
        if self._plan.infer is not None:
            drawn = [job for student in students for job in student.jobs if self.store.exists(job.drawn)]
            score(drawn, self._plan.infer.infer, self.store)

    def _finish(self, student: _Student) -> None:
        """Choose the student's default strength, describe and register it."""
        record = student.record
        over = [job for job in student.jobs if self._over(job)]
        # Without the plain student's pictures at a scale there is nothing to compare with there.
        plain = {job.infer.scale for job in over if job.infer.guidance == PLAIN}
        jobs = [job for job in over if job.infer.scale in plain]
        sheet = self._log_curve(record, jobs) if jobs else b""
        record.model = self._register(record, sheet)
        self._ledger.write(record)
        if not student.failures:
            # Only once the curve is recorded: a launch that is killed before would lose it.
            self._tracker.then(partial(self._concluded, record))
        best_arm = f"best {describe_arm(record.best)}, " if record.curve and record.best else ""
        logger.info("%s: %sregistered as %s", record.name, best_arm, record.model)

    def _log_curve(self, record: TrialRecord, jobs: Sequence[InferenceJob]) -> bytes:
        """Compute and record the curve of a student; return the sheet of pairs by strength, if any."""
        assert self._plan.infer is not None
        record.curve = arms = arms_of(self.store, jobs, self._plan.infer.infer.scorers)
        scale = best_scale(arms, self._plan.sweep.ranked_by)
        own = [arm for arm in arms if arm.scale == scale]
        record.best = best(own, self._plan.infer.infer.max_accuracy_loss)
        at_default = [job for job in jobs if job.infer.scale == scale]
        sheet = strength_sheet(self.store, at_default, self._plan.infer.pairs[:SHEET_PAIRS])
        by_scale = scale_sheet(self.store, jobs, self._plan.sweep.evaluate.sheet_prompts)
        record.strengths = self._write(record, "strengths.png", sheet)
        record.scales = self._write(record, "scales.png", by_scale)
        sheets = {NEGATIVES: sheet, "scales_sheet.png": by_scale}
        log_curve(self._tracker, record.run, record.curve, record.best, sheets)
        return sheet

    def _write(self, record: TrialRecord, name: str, sheet: bytes) -> str:
        """Write a sheet beside the student; return its file, or nothing for an empty one."""
        if not sheet:
            return ""
        file = self._folder(record.trial, name)
        self.store.write(file, sheet)
        return file

    def _concluded(self, record: TrialRecord) -> None:
        record.concluded = self._search_digest(record.trial)
        self._ledger.write(record)

    def _register(self, record: TrialRecord, sheet: bytes) -> str:
        """Register the student's folder, with its card and its default strength; return the model's URI."""
        trial, sweep = record.trial, self._plan.sweep
        pairs = self._plan.infer.pairs if self._plan.infer else ()
        negative = pairs[0].negative_prompt if pairs else "blurry"
        default = record.best.guidance if sheet and record.best else AttentionGuidanceSettings()
        place = self._folder(trial, "student")
        with self.store.folder(place) as own, tempfile.TemporaryDirectory() as copy:
            folder = Path(copy) / "student"
            shutil.copytree(own, folder)
            save_defaults(folder, default)
            if record.best is not None and record.best.scale is not None:
                # Imported here: it loads torch, which the driver needs for nothing else.
                from workloads.students.guidance_scale import set_default

                set_default(folder, record.best.scale)
            save_origin(folder, _origin(record.trial))
            self._describe(record, folder, negative, sheet)
            self.store.put_folder(folder, place)
            example = (sweep.evaluate.sheet_prompts[0], negative if pairs else "", default.strength)
            name, search = _model_name(self._plan, trial), self._search_digest(trial)
            return self._tracker.ask(lambda: register_student(record.run, folder, name, example, search))

    def _describe(self, record: TrialRecord, folder: Path, negative: str, sheet: bytes) -> None:
        """Write the model card and its pictures into the student's local folder."""
        teacher = self._teachers.scores[record.trial.teacher]
        made_by = {"sweep": self._plan.sweep.name, "MLflow run": record.run}
        card = model_card(record, self._prompts.source, teacher, negative, made_by, folder)
        (folder / "README.md").write_text(card, encoding="utf-8")
        if record.sheet:
            (folder / SAMPLES).write_bytes(self.store.read(record.sheet))
        if sheet:
            (folder / NEGATIVES).write_bytes(sheet)


def _origin(trial: Trial) -> Origin:
    """Return the base model of a trial's students: its name for a shipped one, since folders move."""
    model = trial.backbone.model
    base = model if model.startswith(MINIATURE) else trial.source
    loras = tuple(describe_lora(entry) for entry in trial.backbone.loras)
    return Origin(base, loras, trial.train.start_from)


def _model_name(plan: Plan, trial: Trial) -> str:
    return f"{plan.sweep.name}-{trial.backbone.name}"
