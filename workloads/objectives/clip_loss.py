"""The clamped CLIP loss, which penalises images that match their prompts too little (SwiftBrush v2, eq. 5).

    L = mean max(0, tau - cos(E_image(D(x_0)), E_text(y)))

The decoder D maps latents to images; the gradient passes through it and through CLIP's image encoder.
Text embeddings are made once for all steps (`clip_model.ClipTextEncoder`). The loss is added to the
student's loss with a weight that decays to 0 at the end of the training. The paper does not state
whether it clamps samples or their mean, nor the shape of the decay: here samples are clamped and the
decay is linear. The paper's D is a tiny autoencoder; here it is the backbone's own.

Shapes: B batch, C latent channels, H latent height and width, P image height and width in pixels,
D width of CLIP's embedding space.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPImageProcessorPil, CLIPModel

from workloads.backbones.autoencoders import Autoencoder, decode_latents
from workloads.backbones.load_errors import NOT_LOADED
from workloads.miniature import clip_folder
from workloads.objectives.clip_model import not_found, open_clip
from workloads.objectives.columns import ClipTextColumn
from workloads.objectives.terms import NoDraws, Term, TermInputs
from workloads.settings.objectives.terms import ClipLossSettings

CLIP_LOSS = "clip_loss"


class ClipLoss(Term[NoDraws]):
    """The clamped CLIP loss for one CLIP model and the latents of one autoencoder."""

    name = CLIP_LOSS

    def __init__(
        self,
        model: CLIPModel,
        processor: CLIPImageProcessorPil,
        autoencoder: Autoencoder,
        settings: ClipLossSettings,
        steps: int,
        student_steps: int = 1,
    ) -> None:
        """Keep the two networks, both frozen.

        Args:
            steps: length of the training; the weight reaches 0 after the last step.
            student_steps: steps of the student, which are trained in turn.
        """
        super().__init__()
        self.settings, self._steps, self._student_steps = settings, steps, student_steps
        self._model, self._autoencoder = model, autoencoder
        device = next(model.parameters()).device
        self._mean, self._std = (
            torch.tensor(values, device=device).view(1, 3, 1, 1)
            for values in (processor.image_mean, processor.image_std)
        )
        self.columns = {ClipTextColumn.name: self.width}

    @property
    def width(self) -> int:
        """Width D of CLIP's embedding space."""
        return int(self._model.config.projection_dim)

    def weight(self, step: int) -> float:
        """Return the weight of the loss at step number `step` (from 1); 0 at steps without the loss.

        Whole rounds of a student's steps, which are trained in turn, have the loss or do not.
        """
        if (step - 1) // self._student_steps % self.settings.every:
            return 0.0
        return self.settings.weight * (1 - (step - 1) / self._steps)

    def loss(self, latents: Tensor, inputs: TermInputs[NoDraws]) -> Tensor:
        return self(latents, inputs.batch.columns[ClipTextColumn.name])

    def __call__(self, latents: Tensor, texts: Tensor) -> Tensor:
        """Return the scalar loss of latents x_0 (B, C, H, H) and text embeddings (B, D) of unit norm."""
        cosines = (self.embed(self.decode(latents)) * texts).sum(1)
        return F.relu(self.settings.margin - cosines).mean()

    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents (B, C, H, H) to float32 images (B, 3, P, P), about in [-1, 1]."""
        return decode_latents(self._autoencoder, latents.float())

    def embed(self, images: Tensor) -> Tensor:
        """Return unit-norm embeddings (B, D) of images (B, 3, P, P), about in [-1, 1].

        Images are resized to CLIP's input size with the filter of its processor.
        """
        side = self._model.config.vision_config.image_size
        if images.shape[-1] != side:
            images = F.interpolate(images, (side, side), mode="bicubic", antialias=True)
        pixels = ((images + 1) / 2 - self._mean) / self._std
        return F.normalize(self._model.get_image_features(pixel_values=pixels).pooler_output, dim=-1)


def load_clip_loss(
    settings: ClipLossSettings,
    steps: int,
    device: torch.device,
    autoencoder: Callable[[], Autoencoder],
    student_steps: int = 1,
) -> ClipLoss:
    """Load the CLIP model and the autoencoder; on the device "meta" without weights, to estimate memory.

    Args:
        steps: length of the training.
        autoencoder: opens the backbone's autoencoder, on the same device.
        student_steps: steps of the student.

    Raises:
        ValueError: the model is not on this machine, or is not a CLIP model.
    """
    model = open_clip(settings.model, device)
    try:
        processor = CLIPImageProcessorPil.from_pretrained(clip_folder(settings.model), local_files_only=True)
    except NOT_LOADED as error:
        raise not_found(settings.model, error) from None
    del model.text_model
    return ClipLoss(model, processor, autoencoder(), settings, steps, student_steps)
