"""A registered student, as MLflow loads it: needs torch, diffusers and transformers alone.

MLflow stores this file itself with the model ("models from code"), so it imports nothing of
this project.
"""

import io
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import torch
from diffusers import DiffusionPipeline
from mlflow.pyfunc import PythonModel, PythonModelContext


class Student(PythonModel):  # type: ignore[misc]
    """A table of `prompt` and, if wanted, `seed` -> a table of `png`, one network call each."""

    def load_context(self, context: PythonModelContext) -> None:
        """Opens the pipeline folder; on a GPU if there is one."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        folder = Path(context.artifacts["pipeline"])
        dtype = torch.float16 if device == "cuda" else torch.float32
        self._pipeline = DiffusionPipeline.from_pretrained(folder, dtype=dtype).to(device)
        self._pipeline.set_progress_bar_config(disable=True)

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Draws each row's prompt; the same seed gives the same picture."""
        seeds = model_input["seed"] if "seed" in model_input else [0] * len(model_input)
        rows = zip(model_input["prompt"], seeds, strict=True)
        return pd.DataFrame({"png": [self._draw(str(prompt), int(seed)) for prompt, seed in rows]})

    def _draw(self, prompt: str, seed: int) -> bytes:
        network = getattr(self._pipeline, "transformer", None) or self._pipeline.unet
        pixels = network.config.sample_size * self._pipeline.vae_scale_factor
        size: dict[str, Any] = {"height": pixels, "width": pixels}
        if hasattr(self._pipeline, "transformer"):
            tokens = min(120, self._pipeline.tokenizer.model_max_length)
            size |= {"clean_caption": False, "use_resolution_binning": pixels >= 256}
            size |= {"max_sequence_length": tokens}
        image = self._pipeline(
            prompt,
            num_inference_steps=1,
            guidance_scale=1.0,
            generator=torch.Generator("cpu").manual_seed(seed),
            **size,
        ).images[0]
        png = io.BytesIO()
        image.save(png, "png")
        return png.getvalue()


mlflow.models.set_model(Student())
