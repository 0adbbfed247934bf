"""Metadata of exported files: keys that ComfyUI, AUTOMATIC1111 and the hub show, and the student's own.

`modelspec` is Stability AI's specification of such metadata; keys that begin with `ss_` are those of kohya's
trainer, by which AUTOMATIC1111 tells LoRAs of different base models apart.
"""

import json
from pathlib import Path

from workloads.backbones.families import Family
from workloads.export.lora import Lora
from workloads.export.sampling import Sampling
from workloads.students.origin import Origin

SPECIFICATION = "1.0.0"
OPEN_CLIP_WIDTH = 1024
"""Text width of SD 2.1's UNet; that of SD 1.5 is 768."""


def single_file_metadata(folder: Path, family: Family, sampling: Sampling, title: str) -> dict[str, str]:
    """Return the metadata of a checkpoint file with the whole student."""
    return _common(folder, family, sampling, title, "")


def lora_metadata(
    folder: Path, family: Family, sampling: Sampling, title: str, lora: Lora, origin: Origin
) -> dict[str, str]:
    """Return the metadata of a LoRA file."""
    architecture = _architecture(folder, family)
    more = {
        "base_model": origin.base,
        "rank": str(lora.rank),
        "kept_energy": f"{lora.kept:.6f}",
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(lora.rank),
        "ss_network_alpha": str(lora.rank),
        "ss_v2": str(architecture.startswith("stable-diffusion-v2")),
    }
    if architecture.startswith("stable-diffusion-xl"):
        more["ss_base_model_version"] = "sdxl_base_v1-0"
    return _common(folder, family, sampling, title, "/lora") | more


def _common(folder: Path, family: Family, sampling: Sampling, title: str, kind: str) -> dict[str, str]:
    scheduler = json.loads((folder / "scheduler/scheduler_config.json").read_text(encoding="utf-8"))
    prediction = {"v_prediction": "v"}.get(sampling.prediction, sampling.prediction)
    return {
        "format": "pt",
        "modelspec.sai_model_spec": SPECIFICATION,
        "modelspec.title": title,
        "modelspec.architecture": _architecture(folder, family) + kind,
        "modelspec.prediction_type": prediction,
        "modelspec.usage_hint": sampling.advice(),
        "sampling": json.dumps(
            {"steps": sampling.steps, "timesteps": sampling.timesteps, "guidance_scale": 1}
        ),
        "scheduler": json.dumps(scheduler),
    }


def _architecture(folder: Path, family: Family) -> str:
    """Return the name of the architecture in Stability AI's specification; else that of the pipeline."""
    if family.pipeline == "StableDiffusionXLPipeline":
        return "stable-diffusion-xl-v1-base"
    if family.pipeline != "StableDiffusionPipeline":
        return family.pipeline
    config = json.loads((folder / family.network / "config.json").read_text(encoding="utf-8"))
    if config.get("cross_attention_dim") != OPEN_CLIP_WIDTH:
        return "stable-diffusion-v1"
    scheduler = json.loads((folder / "scheduler/scheduler_config.json").read_text(encoding="utf-8"))
    v = scheduler.get("prediction_type") == "v_prediction"
    return "stable-diffusion-v2-768-v" if v else "stable-diffusion-v2-512"
