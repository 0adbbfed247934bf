"""The clamped CLIP loss on pictures that agree too little with their prompts (SwiftBrush v2, eq. 5).

    L = mean max(0, tau - cos(E_image(D(x_0)), E_text(y)))

D decodes latents, the gradient passes through it and through CLIP's image half; prompts are read by
the text half beforehand (`clip_model.ClipText`), once for all steps. The weight beside the student's
loss falls in a line to 0 at the training's end. The paper clamps without saying whether the samples
or their mean, and gives no shape of the fall: here samples, and a line. Its D is a tiny autoencoder;
here it is the backbone's own.

Shapes: B batch, C latent channels, H latent size, P pixels a side, N texts, D width of CLIP's space.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor
from transformers import CLIPImageProcessorPil, CLIPModel

from workloads.backbones.backbone import Network
from workloads.backbones.load_errors import NOT_LOADED
from workloads.miniature import clip_folder
from workloads.objectives.base import STUDENT, Objective, Update
from workloads.objectives.batch import Batch
from workloads.objectives.clip_model import missing, open_clip
from workloads.objectives.columns import ClipTexts
from workloads.settings.objectives import ClipLossSettings

CLIP_LOSS = "clip_loss"


class ClipLoss:
    """The loss under one CLIP model, for the latents of one autoencoder."""

    def __init__(
        self,
        model: CLIPModel,
        processor: CLIPImageProcessorPil,
        autoencoder: AutoencoderKL,
        settings: ClipLossSettings,
        steps: int,
    ) -> None:
        """`steps`: of the whole training, at whose end the weight is 0; both networks are frozen."""
        self.settings, self._steps = settings, steps
        self._model, self._autoencoder = model, autoencoder
        device = next(model.parameters()).device
        self._mean, self._std = (
            torch.tensor(values, device=device).view(1, 3, 1, 1)
            for values in (processor.image_mean, processor.image_std)
        )
        self._scaling = float(autoencoder.config["scaling_factor"])

    @property
    def width(self) -> int:
        """D."""
        return int(self._model.config.projection_dim)

    def weight(self, step: int) -> float:
        """Beside the student's loss, at step number `step` (from 1)."""
        if (step - 1) % self.settings.every:
            return 0.0
        return self.settings.weight * (1 - (step - 1) / self._steps)

    def __call__(self, latents: Tensor, texts: Tensor) -> Tensor:
        """Scalar, of latents (B, C, H, H) with gradient and the texts (B, D) they should show."""
        cosines = (self.see(self.decode(latents)) * texts).sum(1)
        return F.relu(self.settings.margin - cosines).mean()

    def decode(self, latents: Tensor) -> Tensor:
        """(B, C, H, H) -> (B, 3, P, P), about [-1, 1], in float32."""
        pictures: Tensor = self._autoencoder.decode(latents.float() / self._scaling).sample
        return pictures

    def see(self, pictures: Tensor) -> Tensor:
        """(B, 3, P, P), about [-1, 1] -> (B, D) of length 1; scaled to CLIP's size as its processor does."""
        side = self._model.config.vision_config.image_size
        if pictures.shape[-1] != side:
            pictures = F.interpolate(pictures, (side, side), mode="bicubic", antialias=True)
        pixels = ((pictures + 1) / 2 - self._mean) / self._std
        return F.normalize(self._model.get_image_features(pixel_values=pixels).pooler_output, dim=-1)


class WithClipLoss(Objective[Any]):
    """Another objective, and the CLIP loss on its student's pictures."""

    def __init__(self, objective: Objective[Any], clip: ClipLoss) -> None:
        super().__init__(objective.backbone)
        self.objective, self.clip = objective, clip
        self.auxiliary = objective.auxiliary
        self.losses = (*objective.losses, CLIP_LOSS)
        self.columns = {**objective.columns, ClipTexts.name: clip.width}
        # Of the last step that had one: means over steps shall not depend on how many had.
        self._last: Tensor | None = None

    def draw(self, batch: int, generator: torch.Generator) -> Any:
        return self.objective.draw(batch, generator)

    def recompute(self, module: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return self.objective.recompute(module, *args, **kwargs)

    def updates(
        self, networks: Mapping[str, Network], batch: Batch, draws: Any, step: int
    ) -> Iterator[Update]:
        for update in self.objective.updates(networks, batch, draws, step):
            yield update if update.network != STUDENT else self._with_loss(update, batch, step)

    def _with_loss(self, update: Update, batch: Batch, step: int) -> Update:
        assert update.latents is not None
        weight, loss = self.clip.weight(step), update.loss
        if weight:
            value = self.clip(update.latents, batch.columns[ClipTexts.name])
            loss, self._last = loss + weight * value, value.detach()
        if self._last is None:
            self._last = torch.zeros_like(loss)
        return replace(update, loss=loss, told={**update.told, CLIP_LOSS: self._last})


def load_clip_loss(
    settings: ClipLossSettings, steps: int, device: torch.device, autoencoder: Callable[[], AutoencoderKL]
) -> ClipLoss:
    """The loss with its model; on the device "meta" without weights, to count what it needs.

    Raises:
        ValueError: the model is not on this machine, or is none.
    """
    model = open_clip(settings.model, device)
    try:
        processor = CLIPImageProcessorPil.from_pretrained(clip_folder(settings.model), local_files_only=True)
    except NOT_LOADED as error:
        raise missing(settings.model, error) from None
    del model.text_model
    return ClipLoss(model, processor, autoencoder(), settings, steps)
