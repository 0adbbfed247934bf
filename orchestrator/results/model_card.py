"""A student's model card: its base model, its training, its scores and how they were measured."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from orchestrator.planning.plan import MINIATURE, describe_loras
from orchestrator.reporting.formatting import network_calls
from orchestrator.results.record import TrialRecord
from workloads.backbones.families import Family, family_of
from workloads.backbones.hub import split_source
from workloads.scorers.score import Score
from workloads.settings.objectives.catalogue import DESCRIPTIONS
from workloads.settings.objectives.pgsb import PGSBSettings
from workloads.students.scale_range import ScaleRange, load_scales

SAMPLES = "samples.png"
NEGATIVES = "negative_prompts.png"
FRONT = """---
base_model: {base}
base_model_relation: finetune
license: {licence}
pipeline_tag: text-to-image
library_name: diffusers
tags: [{kind}, distillation, pg-sb]
inference:
  parameters: {{num_inference_steps: {steps}, guidance_scale: {neutral}}}
---
"""
USE = """
```python
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained("FOLDER")
image = pipeline(prompt="{prompt}", num_inference_steps={steps}, guidance_scale={neutral}{more}).images[0]
```

A negative prompt needs the project that trained the student (stock pipelines make no second call for it):

```python
from pathlib import Path

from workloads.students.sampler import Generator

pictures = Generator(Path("FOLDER")).draw("{prompt}", seeds=[0], negative_prompt="{negative}")
```
"""

_NO_BINS = ", clean_caption=False, use_resolution_binning=False, max_sequence_length=16"
MINIATURE_CALLS = {
    "StableDiffusionPipeline": ", height=16, width=16",
    "PixArtAlphaPipeline": ", height=16, width=16" + _NO_BINS,
    "SanaPipeline": ", height=32, width=32, complex_human_instruction=None" + _NO_BINS,
    "StableDiffusion3Pipeline": ", height=16, width=16, max_sequence_length=16",
}
"""Arguments with which a stock pipeline draws a miniature, which is smaller than its published models."""


def model_card(
    record: TrialRecord,
    prompts: str,
    teacher: Sequence[Score],
    negative: str,
    made_by: Mapping[str, str],
    base: Path,
) -> str:
    """Return the card in Markdown.

    Args:
        record: the trial that made the student.
        prompts: source of the training prompts.
        teacher: scores of the teacher's own pictures.
        negative: negative prompt of the example.
        made_by: sweep and MLflow run, as rows of the card's table.
        base: folder of the student, which holds the teacher's other parts and its card.
    """
    trial, train = record.trial, record.trial.train
    family, miniature = family_of(str(base)), trial.backbone.model.startswith(MINIATURE)
    scales = load_scales(base)
    # Stock pipelines feed the scale to a UNet alone.
    fed = f"{scales.default:.3g}" if scales and family.network == "unet" else family.neutral_guidance
    more, steps = MINIATURE_CALLS[family.pipeline] if miniature else "", train.student_steps
    lines = [
        FRONT.format(
            base=split_source(trial.backbone.model)[0],
            licence=licence(trial.backbone.model, base),
            neutral=fed,
            kind="one-step" if steps == 1 else "few-step",
            steps=steps,
        ),
        *_introduction(record),
        f"![Samples beside the teacher]({SAMPLES})\n",
        USE.format(
            prompt="a large red circle" if more else "a photo of a corgi",
            negative=negative,
            more=more,
            neutral=fed,
            steps=steps,
        ),
        "## How it was made\n",
        *_table({**_making(record, prompts), **made_by}),
        f"\nAll settings: `{json.dumps(vars(train), default=vars)}`\n",
        "## How well it does\n",
        *_scores(record.default_scores, teacher),
        *_scales(record, scales, family),
        *(_negatives(record) if any(arm.pairs for arm in record.curve) else []),
        "\n## Limits\n",
        f"{_only(steps, family)} Where the teacher is wrong the student is "
        "wrong too, and its pictures of one prompt vary less than the teacher's. Scores are from one "
        "training seed, on the stated number of pictures.",
    ]
    return "\n".join(lines) + "\n"


def _introduction(record: TrialRecord) -> list[str]:
    trial, train = record.trial, record.trial.train
    draws = "in one step" if train.student_steps == 1 else f"in {train.student_steps} steps"
    return [
        f"# {trial.name}: {network_calls(train.student_steps)} of the network a picture\n",
        f"A student of {_teacher(record)} that draws {draws}, distilled by "
        f"{DESCRIPTIONS[train.objective]} under "
        f"{_scale_in_words(record)} guidance scale"
        f"{'' if train.clip_model is None else ', with a clamped CLIP loss'}.\n",
    ]


def _scale_in_words(record: TrialRecord) -> str:
    if record.trial.train.read_scales:
        return "its own"
    return "a fixed" if "-" not in record.trial.interval else "a random"


def _only(steps: int, family: Family) -> str:
    if steps == 1:
        return "One step only: more steps do not improve the picture."
    text = f"{steps} steps only: it was not trained for other numbers."
    if not family.joint:
        return text
    return (  # these pipelines give their generator to the first noise alone
        f"{text} Its stock pipeline draws the noise of later steps from torch's own generator: call "
        "`torch.manual_seed` for the same picture again."
    )


def licence(model: str, base: Path) -> str:
    """Return the licence that the base model's card states; `other` if it states none."""
    if model.startswith(MINIATURE):
        return "apache-2.0"
    card = base / "README.md"
    lines = card.read_text(encoding="utf-8", errors="replace").splitlines()[:60] if card.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("license:")), "other")


def _making(record: TrialRecord, prompts: str) -> dict[str, str]:
    trial, train = record.trial, record.trial.train
    guided = f" ({train.guided})" if isinstance(train, PGSBSettings) else ""
    return {
        "base model": f"`{trial.backbone.model}`",
        **({"LoRAs in the teacher": f"`{describe_loras(trial.backbone)}`"} if trial.loras else {}),
        "prompts": f"`{prompts}`, no pictures",
        "guidance scale in training": f"{trial.interval}{guided}"
        + (", read by the student" if train.read_scales else ""),
        "steps, batch, seed": f"{train.steps}, {train.batch_size}, {train.seed}",
        "training": f"{record.train_seconds:.0f} s",
    }


def _teacher(record: TrialRecord) -> str:
    """Return the teacher in words: its base model, and its LoRAs."""
    backbone = record.trial.backbone
    loras = f" with the LoRA `{describe_loras(backbone)}`" if backbone.loras else ""
    return f"`{backbone.model}`{loras}"


def _table(rows: Mapping[str, str]) -> list[str]:
    return ["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows.items())]


def _scores(scores: Sequence[Score], teacher: Sequence[Score]) -> list[str]:
    if not scores:
        return ["No scorer was configured."]
    theirs = {score.metric: score.value for score in teacher}
    rows = [
        f"| {s.metric} | {s.value:.3f} | {s.low:.3f} to {s.high:.3f} | {s.samples} | "
        f"{theirs.get(s.metric, float('nan')):.3f} | {s.protocol} |"
        for s in scores
    ]
    head = "| metric | student | 95 % interval | samples | teacher | protocol |"
    return [head, "|---|---|---|---|---|---|", *rows]


def _scales(record: TrialRecord, scales: ScaleRange | None, family: Family) -> list[str]:
    """Return how to choose the guidance scale of a student that reads it, and its scores by scale."""
    if scales is None:
        return []
    stock = (
        "feeds its `guidance_scale` to it, without a second call"
        if family.network == "unet"
        else f"draws at {scales.neutral:.3g}, whatever its `guidance_scale`"
    )
    lines = [
        "\n## Guidance scale\n",
        f"It reads its guidance scale, from {scales.low:g} to {scales.high:g}; the default is "
        f"{scales.default:.3g}. In `draw` above, `scale=3` sets it. The stock pipeline {stock}.\n",
    ]
    plain = [arm for arm in record.curve if arm.at_scale]
    if not plain:
        return lines
    metrics = [score.metric for score in plain[0].at_scale]
    rows = [
        f"| {arm.scale:g} | "
        + " | ".join(f"{s.value:.3f} ({s.low:.3f} to {s.high:.3f})" for s in arm.at_scale)
        + " |"
        for arm in plain
    ]
    return [*lines, f"| scale | {' | '.join(metrics)} |", "|---" * (len(metrics) + 1) + "|", *rows]


def _negatives(record: TrialRecord) -> list[str]:
    lines = ["\n## Negative prompts\n", f"![Pairs by strength]({NEGATIVES})\n"]
    if record.best is None or record.best.is_plain:
        lines.append("No tested strength removed anything at an allowed cost.\n")
    else:
        lines.append(f"Default: {record.best.label} at strength {record.best.strength:g}.\n")
    lines += [
        "| guidance | strength | metric | value | 95 % interval | samples |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {arm.label} | {arm.strength:g} | {s.metric} | {s.value:.3f} | "
        f"{s.low:.3f} to {s.high:.3f} | {s.samples} |"
        for arm in record.curve
        if record.best is None or arm.scale == record.best.scale
        for s in arm.scores
    ]
    return lines
