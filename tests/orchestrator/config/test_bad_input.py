"""Bad input, case by case: one line with place, setting and remedy; nothing is started or lost."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.common.errors import UserError
from orchestrator.common.storage import Store
from orchestrator.data.prompt_rows import read_rows
from orchestrator.run import main
from orchestrator.tracking.server import tracking_uri
from tests.support.cli import SWEEP, refused, written

LAUGHS = "".join(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]\n" for n in range(1, 9))


@dataclass(frozen=True)
class Case:
    """A mistake, and the expected message."""

    id: str
    pattern: str
    """Pattern of the message."""
    text: str | bytes = SWEEP
    """Content of the sweep file."""
    options: tuple[str, ...] = ()


def spoilt(id: str, old: str, new: str, pattern: str) -> Case:
    """A sweep file with `old` replaced by `new`."""
    assert old in SWEEP, old
    return Case(id, pattern, SWEEP.replace(old, new, 1))


def override(value: str, pattern: str) -> Case:
    """A valid file, and a mistake after --set."""
    return Case(f"--set {value}"[:40], pattern, SWEEP, ("--set", value))


FILES = [
    Case("empty", r"sweep\.yaml: is empty: start from a copy of sweeps/miniature\.yaml", ""),
    Case("comments-only", r"sweep\.yaml: is empty", "# nothing\n"),
    Case("list-at-the-top", r"sweep\.yaml: a sweep file must be a mapping of settings", "- name: tiny\n"),
    Case("text-at-the-top", r"sweep\.yaml: a sweep file must be a mapping of settings", "name"),
    Case("not-utf8", r"sweep\.yaml: cannot read the sweep file: it is not UTF-8 text", b"name: caf\xe9\n"),
    Case("utf16", r"sweep\.yaml: cannot read the sweep file: it is not UTF-8 text", SWEEP.encode("utf-16")),
    Case("a-picture", r"sweep\.yaml: cannot read the sweep file", b"\x89PNG\r\n\x1a\n\x00\x00"),
    Case("control-character", r"sweep\.yaml: not valid YAML: unacceptable character", "name: a\x01b\n"),
    Case("nul-escape", r"sweep\.yaml:1: text contains a NUL or an unpaired surrogate", 'name: "a\\0b"\n'),
    Case("half-a-pair", r"sweep\.yaml:1: text contains a NUL or an unpaired surrogate", 'name: "\\ud800"\n'),
    Case("two-documents", r"sweep\.yaml:14: not valid YAML: .*another document", SWEEP + "---\na: 1\n"),
    Case("python-tag", r"sweep\.yaml:1: the tag !!python/object/apply:os\.system is not allowed",
         "name: !!python/object/apply:os.system [echo]\n"),
    Case("own-tag", r"sweep\.yaml:1: the tag !mine is not allowed", "name: !mine x\n"),
    Case("false-tag", r"sweep\.yaml: a value that cannot be read", "name: !!int tiny\n"),
    Case("huge-number", r"sweep\.yaml: a value that cannot be read: .*digits", f"name: {'9' * 5000}\n"),
    Case("billion-laughs", r"sweep\.yaml:\d+: more than 100,000 values", f"l0: &l0 lol\n{LAUGHS}"),
    Case("alias-of-itself", r"sweep\.yaml:1: nested more than 50 deep", "name: &a [*a]\n"),
    Case("deep-nesting", r"sweep\.yaml: nested more than 50 deep", "name: " + "[" * 5000 + "\n"),
    Case("large-file", r"sweep\.yaml: is larger than 1,000,000 bytes", "# x\n" * 300_000),
    Case("unknown-alias", r"sweep\.yaml:1: not valid YAML: found undefined alias", "name: *nobody\n"),
    Case("number-as-key", r"sweep\.yaml:1: a key is int, not text: put it in quotes", "1: tiny\n"),
    Case("boolean-as-key", r"sweep\.yaml:1: a key is bool, not text", "on: tiny\n"),
    Case("list-as-key", r"sweep\.yaml:1: a key is seq, not text", "? [a, b]\n: tiny\n"),
    spoilt("key-twice", "name: tiny\n", "name: tiny\nname: big\n", r":2: duplicate key 'name': remove one"),
    spoilt("newline-in-key", "name: tiny", '"na\\nme": tiny',
     r":1: na\\nme: unknown key; the nearest .* 'name'"),
    spoilt("text-for-section", "{samples: 2}", "2", r":13: search: input should be .*, not 2"),
    spoilt("nothing-for-section", "train:\n  steps: 10", "train:",
     r":5: train: input should be a mapping, not None"),
    spoilt("setting-missing", "name: tiny\n", "", r"sweep\.yaml: name: this setting is required: add it"),
    spoilt("backbone-without-model", ", model: miniature/pixart", "", r":4: backbones\.0\.model: .*required"),
    spoilt("no-backbones", "\n  - {name: pixart, model: miniature/pixart}", " []",
     r":3: backbones: .*at least 1"),
    spoilt("one-name-twice", "train:", "  - {name: pixart, model: miniature/unet-v}\ntrain:",
           r":3: backbones: have a duplicate name: \['pixart', 'pixart'\]"),
    spoilt("pair-misspelt", "negative_prompt: red", "negative: red",
     r":12: infer\.pairs\.0\.negative: unknown key"),
    spoilt("setting-renamed", "{samples: 2}", "{samples: 2}\nresources: {hang_seconds: 5}",
     r":14: resources\.hang_seconds: this setting is called 'hang_timeout_s' now: rename it"),
    spoilt("setting-removed", "scorers: [removal]", "keep_pictures: true",
     r":11: infer\.keep_pictures: this setting was removed: delete it"),
    spoilt("pairs-a-number", "[{prompt: a circle, negative_prompt: red}]", "5",
     r":12: infer\.pairs: .*not 5"),
]  # fmt: skip

NAMES = [
    spoilt("name-with-slash", "tiny", "a/b", r":1: name: string should match pattern"),
    spoilt("name-of-dots", "tiny", "..", r":1: name: string should match pattern"),
    spoilt("name-with-space", "tiny", "a b", r":1: name: string should match pattern"),
    spoilt("name-not-ascii", "tiny", "zürich", r":1: name: string should match pattern"),
    spoilt("name-long", "tiny", "a" * 64, r":1: name: string should match pattern"),
    spoilt("name-a-boolean", "tiny", "off", r":1: name: is false \(YAML reads yes, no, on and off"),
    spoilt("name-of-the-database", "tiny", "mlflow.db", r":1: name: is 'mlflow.db', which is reserved"),
    spoilt("name-of-the-prompts", "tiny", "prompts", r":1: name: is 'prompts', which is reserved"),
    spoilt("backbone-with-colon", "name: pixart", "name: 'a:b'",
     r":4: backbones\.0\.name: string should match"),
    spoilt("style-mlflow-refuses", "negative_prompt: red", "negative_prompt: red, style: 'a=b'",
           r":12: infer\.pairs\.0\.style: string should match pattern"),
]  # fmt: skip

RANGES = [
    override("train.learning_rate=.nan", r"train\.learning_rate: .*finite number, not nan"),
    override("train.learning_rate=1.0e+999", r"train\.learning_rate: .*finite number, not inf"),
    override("train.learning_rate=0", r"train\.learning_rate: must be above 0, not 0"),
    override("train.learning_rate={values: [.inf]}", r"train\.learning_rate: .*finite number"),
    override("train.learning_rate={min: .nan, max: 1}", r"train\.learning_rate\.min: .*finite number"),
    override("train.guidance_interval=[1, .inf]", r"train\.guidance_interval(\.1)?: .*finite number"),
    override("train.guidance_interval=[-1, 2]", r"train\.guidance_interval: .*needs 0 <= low"),
    override("train.guidance_interval=[1, 2, 3]", r"train\.guidance_interval: "),
    override("train.adam_betas=[0.9, 1]", r"train\.adam_betas: .*at least 0 and below 1"),
    override("train.timestep_range=[0.5, 0.5]", r"train\.timestep_range: .*first < last"),
    override("train.null_rate=1.5", r"train\.null_rate: must be at least 0 and at most 1"),
    override("train.ema_decay=1", r"train\.ema_decay: must be at least 0 and below 1"),
    override("train.gradient_clip=-1", r"train\.gradient_clip: must be at least 0"),
    override("train.steps=true", r"train\.steps: is true"),
    override("train.steps=1000000000", r"train\.steps: must be at least 1 and at most 10,000,000"),
    override("train.steps=1.5", r"train\.steps: .*valid integer.*not 1\.5"),
    override("train.steps=1.0e+4", r"train\.steps: .*valid integer, not 10000\.0"),
    override("train.learning_rate='0.1'", r"train\.learning_rate: .*valid number, not '0\.1'"),
    override("train.lora.rank=yes", r"train\.lora\.rank: is true \(YAML reads yes"),
    override("resources.step=5", r"resources\.step: .*, not 5"),
    override("evaluate.scorers=clip", r"evaluate\.scorers: input should be a valid list, not 'clip'"),
    override("train.batch_size=100000", r"train\.batch_size: .*at most 65,536, not 100000"),
    override("train.seed=-1", r"train\.seed: must be at least 0"),
    override("train.lora.rank=0", r"train\.lora\.rank: must be at least 1"),
    override("train.lora.alpha=.nan", r"train\.lora\.alpha: .*finite number"),
    override("train.lora.targets=['']", r"train\.lora\.targets: must name layers"),
    override("train.seed={min: 0.5, max: 2, distribution: integer}", r"train\.seed: needs whole numbers"),
    override("train.start_from=' '", r"train\.start_from: is empty"),
    override("backbones.pixart.start_timestep=1000", r"start_timestep: .*less than 1000"),
    override("backbones.pixart.loras=a.safetensors", r"loras: input should be a valid list, not 'a\.safe"),
    override("backbones.pixart.loras=[{weight: 1}]", r"loras\.0\.path: this setting is required: add it"),
    override("backbones.pixart.loras=[{path: ''}]", r"loras\.0\.path: is empty"),
    override("backbones.pixart.loras=[{path: a, weight: 0}]", r"loras\.0\.weight: is 0, with which the LoRA"),
    override("backbones.pixart.loras=[{path: a, weight: .inf}]", r"loras\.0\.weight: .*finite number"),
    override("backbones.pixart.loras=[{path: a, weight: yes}]", r"loras\.0\.weight: is true"),
    override("backbones.pixart.loras=[{path: a, scale: 1}]", r"loras\.0\.scale: unknown key"),
    override("evaluate.teacher.guidance_scale=.nan", r"evaluate\.teacher\.guidance_scale: .*finite"),
    override("evaluate.sheet_prompts=['']", r"evaluate\.sheet_prompts\.0: is empty"),
    override("evaluate.sheet_prompts=[]", r"evaluate\.sheet_prompts: .*at least 1 item"),
    override("evaluate.samples=true", r"evaluate\.samples: is true"),
    override("evaluate.samples=100000000", r"evaluate\.samples: .*less than or equal to 1000000"),
    override("infer.attention_guidance.0.strength=.inf", r"strength: .*finite number"),
    override("infer.attention_guidance.0.strength=true", r"strength: is true"),
    override("infer.gpus=1.5", r"infer\.gpus: must be a fraction of one GPU or a whole number, not 1\.5"),
    override("infer.pairs.0.negative_prompt=''", r"infer\.pairs\.0\.negative_prompt: is empty"),
    override("infer.max_accuracy_loss=.nan", r"infer\.max_accuracy_loss: .*finite number"),
    override("resources.workers=0", r"resources\.workers: .*greater than 0"),
    override("resources.gpus_per_worker=2", r"resources\.gpus_per_worker: .*less than or equal to 1"),
    override("resources.gpus_per_worker=-0.5", r"resources\.gpus_per_worker: .*greater than or equal to 0"),
    override("resources.gpus_per_worker=.nan", r"resources\.gpus_per_worker: .*finite number"),
    override("resources.gpus_per_worker=yes", r"resources\.gpus_per_worker: is true"),
    override("resources.gpus_per_worker='0.5'", r"resources\.gpus_per_worker: .*valid number"),
    override("resources.gpus_per_worker=0.9", r"gpus_per_worker: is 0\.9, .* one nth of a GPU.*: set 1, "),
    override("resources.gpus_per_worker=0.3", r"gpus_per_worker: is 0\.3, and Ray .*: set 0\.3333, "),
    override("resources.gpus_per_worker=1.0e-9", r"gpus_per_worker: is 1e-09, and Ray .*: set 0\.0001, "),
    override("resources={workers: 2, gpus_per_worker: 0.5}",
             r"gpus_per_worker: is 0\.5 with 2 workers, and NCCL refuses .*: set resources\.workers=1"),
    override("resources={gpu: L4, gpus_per_worker: 0.02}",
             r"only 0\.00 GiB are usable by each of the 50 workers .*gpus_per_worker 0\.\d+ fits$"),
    override("resources.workers=7", r"train\.batch_size: 64 is not divisible by the 7 resources\.workers"),
    override("resources.cpus_per_worker=.inf", r"resources\.cpus_per_worker: .*finite number"),
    override("resources.gpu=A100", r"resources\.gpu: is 'A100', not one of A10G, .*H200.*: choose"),
    override("resources.gpu=H200", r"resources\.gpu: is 'H200' but gpus_per_worker is 0: set"),
    override("resources.step.compile=3", r"resources\.step\.compile: .*valid boolean.*not 3"),
    override("resources.step.checkpointing=true", r"nearest valid one is 'activation_checkpointing'"),
    override("resources.step.score_batch=4", r"resources\.step\.score_batch: .*'all', 'role'.*not 4"),
    override("budget.price_per_gpu_hour=-1", r"budget\.price_per_gpu_hour: .*greater than or equal to 0"),
    override("budget.max_gpu_hours=.nan", r"budget\.max_gpu_hours: .*finite number"),
    Case("ten-thousand-trials", r"sweep\.yaml: 1,000,000 trainings, more than 10,000", SWEEP,
         ("--set", "search.samples=1000000", "--set", "train.learning_rate={min: 1.0e-6, max: 1.0e-4}",
          "--set", "infer.attention_guidance.0.strength=1")),
    Case("a-million-strengths", r"strength: 1,000,000 strengths, more than 1,000", SWEEP,
         ("--set", "search.samples=1000000",
          "--set", "infer.attention_guidance.0.strength={min: 0, max: 1}")),
    override("train.seed={values: [1, 1]}", r"two trials are the same"),
    override("train.guidance_input=yes please", r"train\.guidance_input: "),
    override("train={guidance_input: true, guidance_interval: [0, 4]}",
             r"guidance_interval: \[0\.0, 4\.0\]: guidance_input needs 0 < low < high"),
    override("train={guidance_input: true, guidance_interval: [3, 3]}", r"needs 0 < low < high"),
    override("train={guidance_input: true, guided: fake_score}", r"guided must be teacher or both"),
    override("train={guidance_input: true, guidance_per: batch}", r"leave guidance_per out"),
    override("train={guidance_input: true, fake_score_interval: [1, 2]}", r"exclude each other"),
    override("train={guidance_input: true, student_lora: {rank: 4}}", r"leave student_lora out"),
    override("train={guidance_input: student, objective: boot}", r"guidance_input: student is for .* pgsb"),
    override("infer={guidance_scale: {values: [1, 2]}}", r"infer\.guidance_scale: no student reads its"),
    override("infer={guidance_scale: {values: [2, 1]}}", r"infer\.guidance_scale\.values: must rise, each "),
    override("infer={guidance_scale: {values: [0, 1]}}", r"infer\.guidance_scale\.values"),
    override("infer={}", r"infer: has nothing to try: add attention_guidance or guidance_scale"),
    override("infer={attention_guidance: [{kind: nag, strength: 1}], scorers: [removal]}",
             r"infer\.attention_guidance: needs pairs: add at least one"),
    override("train.student_steps=3", r"train\.student_steps: input should be 1, 2 or 4, not 3"),
    override("train.student_steps=0", r"train\.student_steps: .*1, 2 or 4, not 0"),
    override("train.student_steps=two", r"train\.student_steps: .*1, 2 or 4, not 'two'"),
    override("train.student_steps=[999, 749]", r"train\.student_steps: .*1, 2 or 4"),
    override("train.student_steps={values: [1, 8]}", r"train\.student_steps: .*1, 2 or 4, not 8"),
]  # fmt: skip

SETS = [
    override("train.steps", r"^error: --set train\.steps: write --set key=value"),
    override("=5", r"^error: --set =5: write --set key=value"),
    override("train.steps=[", r"^error: --set train\.steps=\[: the value is not valid YAML"),
    override(
        "train.steps=!!python/name:os.system", r"--set .*: the value is the tag !!python/name:os\.system"
    ),
    override("train.steps=", r"--set train\.steps=: train\.steps: .*valid integer, not None"),
    override("backbones.²=1", r"--set backbones\.²=1: backbones is not a section of the file"),
    override("backbones.9.model=x", r"--set .*: no '9' in backbones: \['pixart'\]"),
    override("backbones.nobody.model=x", r"--set .*: no 'nobody' in backbones: \['pixart'\]"),
    override("name.first=1", r"--set name\.first=1: name is not a section of the file"),
    override("train..steps=1", r"^error: --set train\.\.steps=1: write --set key=value"),
    override("nonsense.a=1", r"--set nonsense\.a=1: nonsense: unknown key"),
    override("train.5=1", r"--set train\.5=1: train\.5: unknown key"),
    override("a\nb=1", r"--set a\\nb=1: a\\nb: unknown key"),
]

TRACKING = [
    ("no-scheme", "mlruns", r"tracking\.uri mlruns: give http\(s\)://, sqlite:/// or postgresql://"),
    ("a-folder", "file:///tmp/mlruns", r"tracking\.uri file:///tmp/mlruns: give"),
    ("a-bucket", "s3://bucket/mlflow", r"tracking\.uri s3://bucket/mlflow: give"),
    ("misspelt", "htp://mlflow:5000", r"tracking\.uri htp://mlflow:5000: give"),
    ("password-unshown", "ftp://me:hunter22@host/x", r"tracking\.uri ftp://(?!.*hunter22)"),
    ("no-such-folder", "sqlite:////no/such/folder/mlflow.db", r"tracking\.uri sqlite:.*folder"),
    ("no-host", "http://", r"tracking\.uri http://: "),
    ("torn-host", "http://[::1", r"tracking\.uri http://\[::1: "),
]


@pytest.mark.parametrize("case", FILES + NAMES + RANGES + SETS, ids=lambda case: case.id)
def test_sweep_file_and_overrides(case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_bytes(case.text if isinstance(case.text, bytes) else case.text.encode())
    refused(capsys, case.pattern, str(path), "--plan", *case.options)


def test_valid_file_is_planned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without this, the cases could fail for another reason."""
    assert main([written(tmp_path), "--plan"]) == 0
    assert "1 trials on 1 backbones" in capsys.readouterr().out


PLACES: list[tuple[str, Callable[[Path], Path], str]] = [
    ("nowhere", lambda folder: folder / "no.yaml", r"no\.yaml: cannot read the sweep file: No such file"),
    ("a-folder", lambda folder: folder, r": cannot read the sweep file: Is a directory"),
    ("below-a-file", lambda folder: Path(written(folder)) / "x",
     r"cannot read the sweep file: Not a directory"),
    ("name-too-long", lambda folder: folder / ("x" * 300), r"cannot read the sweep file: File name too long"),
]  # fmt: skip


@pytest.mark.parametrize(("place", "pattern"), [row[1:] for row in PLACES], ids=[row[0] for row in PLACES])
def test_missing_sweep_file(
    place: Callable[[Path], Path], pattern: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(capsys, pattern, str(place(tmp_path)), "--plan")


def prompts(content: dict[str, Any]) -> Callable[[Path], str]:
    """Return a function that writes files to a folder `p` and returns its path."""

    def make(folder: Path) -> str:
        for name, text in content.items():
            path = folder / "p" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return str(folder / "p")

    return make


SOURCES: list[tuple[str, Callable[[Path], str], str]] = [
    ("nowhere", lambda folder: f"{folder}/none.txt", r"prompts\.source: .*none\.txt: no such file or folder"),
    ("other-kind", prompts({"notes.md": "x"}), r"prompts\.source: .*p: no file of \.txt \.jsonl"),
    ("folders-alone", prompts({"x.txt/y.md": "x"}), r"prompts\.source: .*p: no file of \.txt \.jsonl"),
    ("too-long", lambda folder: "x" * 5000, r"prompts\.source: x+ \.\.\. x+: no such file or folder"),
    ("blank", lambda folder: "''", r"prompts\.source: is empty"),
    (
        "miniature-none",
        lambda folder: "miniature:0",
        r"prompts\.source: miniature:0: write miniature:N with N",
    ),
    (
        "miniature-word",
        lambda folder: "miniature:many",
        r"prompts\.source: miniature:many: write miniature:N",
    ),
    ("miniature-digit", lambda folder: "miniature:²", r"prompts\.source: miniature:²: write miniature:N"),
    ("miniature-huge", lambda folder: "miniature:99999999999", r"with N from 1 to 10,000,000"),
]


@pytest.mark.parametrize(("make", "pattern"), [row[1:] for row in SOURCES], ids=[row[0] for row in SOURCES])
def test_missing_prompts(
    make: Callable[[Path], str], pattern: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(capsys, pattern, written(tmp_path), "--plan", "--set", f"prompts.source={make(tmp_path)}")


PAIRS = [
    ("not-json", "a cat\n", r"pairs\.jsonl:1: write one JSON object per line, as"),
    (
        "no-negative",
        '\n{"prompt": "a"}\n',
        r"pairs\.jsonl:2: negative_prompt: this setting is required: add it",
    ),
    ("deep", "[" * 100_000, r"pairs\.jsonl:1: write one JSON object per line"),
    ("none", "\n\n", r"infer\.pairs: has no pair: add at least one"),
]


@pytest.mark.parametrize(("text", "pattern"), [row[1:] for row in PAIRS], ids=[row[0] for row in PAIRS])
def test_bad_pairs_file(text: str, pattern: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text(text)
    refused(capsys, pattern, written(tmp_path), "--plan", "--set", f"infer.pairs={pairs}")


@pytest.mark.parametrize("section", ["infer", "evaluate"])
def test_missing_scorer_weights(section: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scorer = f"{section}.scorers=[{{name: hpsv2, version: v2.1, weights: /no/weights.pt}}]"
    pattern = rf"{section}\.scorers\.0\.weights: /no/weights\.pt: no such file"
    refused(capsys, pattern, written(tmp_path), "--plan", "--set", scorer)


UNRANKED = [
    ("evaluate.scorers=[removal]", r"evaluate\.scorers\.0: scorer removal belongs under infer\.scorers"),
    ("evaluate.scorers=[3]", r"evaluate\.scorers\.0: is 3: give a scorer's name, or \{name: "),
    (
        "evaluate.scorers=[{name: clip, threshold: 0.3}]",
        r"evaluate\.scorers\.0: clip's threshold applies to negative prompts",
    ),
    (
        "search.scheduler=asha",
        r"asha ranks by a score, and evaluate\.scorers measures none to rank by: add ",
    ),
    ("search.metric=clip_plus", r"search\.metric: is clip_plus, which none of evaluate\.scorers measures"),
    (
        "evaluate.scorers=[clip, clip]",
        r"evaluate\.scorers: clip is listed twice, and both would write the same metrics: keep one",
    ),
    ("infer.scorers=[removal, removal]", r"infer\.scorers: removal is listed twice"),
    (
        "search={scheduler: asha, metric: clip_plus}",
        r"search\.metric: is clip_plus, which none of evaluate\.scorers measures: add its scorer there",
    ),
]


@pytest.mark.parametrize(("override", "pattern"), UNRANKED)
def test_bad_scorers_and_ranking(
    override: str, pattern: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(capsys, pattern, written(tmp_path), "--plan", "--set", override)


STORAGES: list[tuple[str, Callable[[Path], str], str]] = [
    ("a-file", written, r"storage .*sweep\.yaml: "),
    (
        "below-a-file",
        lambda folder: f"{written(folder)}/results",
        r"storage .*: cannot be written: Not a direc",
    ),
    ("no-permission-proc", lambda folder: "/proc/results", r"storage /proc/results: cannot be written: "),
    ("no-permission-sys", lambda folder: "/sys/results", r"storage /sys/results: cannot be written: "),
    ("unknown-scheme", lambda folder: "foo://bucket/x", r"storage foo://bucket/x: cannot be opened: "),
    ("bucket-with-a-space", lambda folder: "s3://my bucket/x", r"storage s3://my bucket/x: cannot be opened"),
    ("relative-uri", lambda folder: "file://results", r"storage file://results: "),
    (
        "a-query",
        lambda folder: "s3://bucket/x?scheme=http",
        r"storage s3://bucket/x\?scheme=http: contains a \?query",
    ),
]


@pytest.mark.usefixtures("no_ray")
@pytest.mark.parametrize(("make", "pattern"), [row[1:] for row in STORAGES], ids=[row[0] for row in STORAGES])
def test_unusable_storage(
    make: Callable[[Path], str], pattern: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = make(tmp_path)
    refused(capsys, pattern, written(tmp_path), "--storage", storage)
    assert (tmp_path / "sweep.yaml").read_text() == SWEEP, "the file that was there is lost"


@pytest.mark.usefixtures("no_ray")
def test_storage_in_an_unknown_home(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    storage = "~nobody-of-this-name/results"
    refused(capsys, f"storage {storage}: ", written(tmp_path), "--storage", storage)


@pytest.mark.usefixtures("no_ray")
@pytest.mark.parametrize(("uri", "pattern"), [row[1:] for row in TRACKING], ids=[row[0] for row in TRACKING])
@pytest.mark.parametrize("where", ["option", "file", "environment"])
def test_unsupported_tracking_uri(
    where: str,
    uri: str,
    pattern: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = {"option": ["--tracking-uri", uri], "file": ["--set", f"tracking.uri={uri}"], "environment": []}
    if where == "environment":
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    refused(capsys, pattern, written(tmp_path), "--storage", str(tmp_path / "results"), *options[where])


@pytest.mark.parametrize(
    ("given", "pattern"),
    [
        (None, "cannot hold an SQLite file: give"),
        ("sqlite:////tmp/m.db", "leave models .* in this folder"),
    ],
)
def test_bucket_needs_a_tracking_server(
    given: str | None, pattern: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(UserError, match=pattern):
        tracking_uri(given, Store("gs://bucket/x"))


ROWS: list[tuple[str, str, bytes, list[str], list[str]]] = [
    ("not-utf8", "p.txt", b"a cat\ncaf\xe9\na dog\n", ["a cat", "a dog"], ["not UTF-8"]),
    ("utf16", "p.txt", "a\ncat\n".encode("utf-16-le"), [], ["holds a NUL", "holds a NUL", "holds a NUL"]),
    ("blank-rows", "p.txt", b"\n \na cat\n", ["a cat"], ["empty prompt", "empty prompt"]),
    ("very-long", "p.txt", b"x" * 10_001 + b"\na cat\n", ["a cat"], ["longer than 10000 characters"]),
    ("torn-json", "p.jsonl", b'{"prompt": "a"}\n{"prompt": "b', ["a"], ["not valid JSON"]),
    ("deep-json", "p.jsonl", b"[" * 100_000 + b'\n{"prompt": "b"}', ["b"], ["not valid JSON"]),
    ("half-a-pair", "p.jsonl", b'{"prompt": "\\ud800"}\n{"prompt": "b"}', ["b"], ["not UTF-8"]),
    ("number", "p.jsonl", b'{"prompt": 3}\n{"prompt": "b"}', ["b"], ["not text but int"]),
    ("other-column", "p.jsonl", b'{"words": "a"}\n', [], ["no column named prompt, caption, text"]),
    ("short-row", "p.csv", b"id,prompt\n1\n2,a\n", ["a"], ["1 fields where the header has 2"]),
    ("huge-field", "p.csv", b"prompt\n" + b"x" * 200_000 + b"\na cat\n", ["a cat"], ["field larger than"]),
    ("other-header", "p.tsv", b"a\tb\n1\t2\n", [], ["no column named"]),
    ("no-parquet", "p.parquet", b"prompt\na cat\n", [], ["the file cannot be read"]),
    ("empty-parquet", "p.parquet", b"", [], ["the file cannot be read"]),
    ("a-folder", "p.txt", b"<folder>", [], ["the file cannot be read"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "good", "bad"), [r[1:] for r in ROWS], ids=[r[0] for r in ROWS])
def test_bad_rows_have_reasons(
    name: str, content: bytes, good: list[str], bad: list[str], tmp_path: Path
) -> None:
    path = tmp_path / name
    if content == b"<folder>":
        path.mkdir()
    else:
        path.write_bytes(content)
    found = list(read_rows(str(path), None))
    assert [row.prompt for row in found if not row.reason] == good
    reasons = [row.reason for row in found if row.reason]
    assert len(reasons) == len(bad)
    assert all(
        part in reason and len(reason.splitlines()) == 1 for part, reason in zip(bad, reasons, strict=True)
    )


def test_parquet_columns_without_text(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    pq.write_table(pa.table({"prompt": [[1], [2]]}), path)
    assert [row.reason for row in read_rows(str(path), None)] == ["the prompt is not text but list"] * 2
    odd = pa.Array.from_buffers(pa.string(), 2, pa.array([b"caf\xe9", b"a cat"]).buffers())
    pq.write_table(pa.table({"prompt": odd}), path)
    assert [(row.prompt, row.reason) for row in read_rows(str(path), None)] == [
        ("", "not UTF-8"),
        ("a cat", ""),
    ]
