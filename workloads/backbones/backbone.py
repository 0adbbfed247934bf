"""One interface to the teachers of all families: the network, its noise schedule and its call.

`load_backbone` opens a teacher. `Backbone.epsilon` and `Backbone.one_step` call it, or any network of the
same architecture (a student, an engine around one, the fake score), with latents and conditioning.

Shapes: B batch, C latent channels, H latent size, P pooled width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import AutoencoderKL, DDPMScheduler, PixArtTransformer2DModel, UNet2DConditionModel
from diffusers.configuration_utils import FrozenDict
from torch import Tensor, nn

from workloads.backbones.conditioning import Conditioning
from workloads.backbones.families import Family, family_of
from workloads.backbones.load_errors import one_line
from workloads.backbones.noise_schedule import NoiseSchedule
from workloads.backbones.weight_files import find_weights

Network = Callable[..., Any]
"""A diffusers network, or a DeepSpeed engine or DDP module around one."""

Model = TypeVar("Model", bound=nn.Module)

NETWORK_CLASSES = {"unet": UNet2DConditionModel, "transformer": PixArtTransformer2DModel}


@dataclass(frozen=True)
class Backbone:
    """A frozen teacher, with everything that a call of a network of its architecture needs."""

    source: str
    """Pipeline folder or hub id of the teacher."""
    family: Family
    network: nn.Module
    """The teacher's network, frozen and in evaluation mode."""
    schedule: NoiseSchedule
    start_timestep: int
    """Timestep at which the one-step student is called with pure noise."""
    latent_scale: int = 8
    """Pixels per side of one latent."""

    @property
    def config(self) -> FrozenDict:
        """Config of the network."""
        config: FrozenDict = self.network.config
        return config

    @property
    def device(self) -> torch.device:
        """Device of the network."""
        return next(self.network.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the network's weights."""
        return next(self.network.parameters()).dtype

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Shape (C, H, H) of one sample's latents."""
        size = self.config["sample_size"]
        return (self.config["in_channels"], size, size)

    def predict(
        self, network: Network, latents: Tensor, timestep: Tensor, conditioning: Conditioning
    ) -> Tensor:
        """Return the raw output of `network` without variance channels, (B, C, H, H), at least float32.

        Args:
            network: The teacher, or any network or engine of the same architecture.
            latents: (B, C, H, H), noisy.
            timestep: (B,), integers below 1000.
            conditioning: Conditioning of B prompts.
        """
        latents, embeddings = latents.to(self.dtype), conditioning.embeddings.to(self.dtype)
        if self.family.network == "unet":
            added = self._added_conditions(latents, conditioning)
            output = network(latents, timestep, embeddings, return_dict=False, **added)[0]
        else:
            output = network(
                latents,
                encoder_hidden_states=embeddings,
                timestep=timestep,
                encoder_attention_mask=conditioning.mask,
                added_cond_kwargs=self._resolution(latents),
                return_dict=False,
            )[0]
        channels = self.latent_shape[0]
        widened = torch.promote_types(output.dtype, torch.float32)
        prediction: Tensor = output[:, :channels].to(widened)
        return prediction

    def _resolution(self, latents: Tensor) -> dict[str, Tensor | None]:
        """Return PixArt's conditions at 1024 px: height and width in pixels (B, 2), their ratio (B, 1)."""
        if not self.network.use_additional_conditions:
            return {"resolution": None, "aspect_ratio": None}
        pixels = latents.new_full((len(latents), 2), self.latent_shape[-1] * self.latent_scale)
        return {"resolution": pixels, "aspect_ratio": latents.new_ones((len(latents), 1))}

    def _added_conditions(self, latents: Tensor, conditioning: Conditioning) -> dict[str, Any]:
        """Return SDXL's added conditions: pooled embeddings (B, P), and sizes in pixels (B, 6).

        The sizes are original height and width, top and left of the crop, target height and width. As in
        the stock pipeline, they are those of an uncropped image at the backbone's own resolution.
        """
        if conditioning.pooled is None:
            return {}
        # Filled on the device, because a copy from the host would make the host wait.
        sizes = latents.new_full((len(latents), 6), self.latent_shape[-1] * self.latent_scale)
        sizes[:, 2:4] = 0
        added = {"text_embeds": conditioning.pooled.to(self.dtype), "time_ids": sizes}
        return {"added_cond_kwargs": added}

    def epsilon(
        self, network: Network, latents: Tensor, timestep: Tensor, conditioning: Conditioning
    ) -> Tensor:
        """Return the noise (B, C, H, H) that `network` predicts in `latents`; arguments as in `predict`."""
        output = self.predict(network, latents, timestep, conditioning)
        return self.schedule.to_epsilon(output, latents, timestep)

    def one_step(self, network: Network, noise: Tensor, conditioning: Conditioning) -> Tensor:
        """Return the student's latents x_0 (B, C, H, H) for pure `noise` (B, C, H, H), in one call.

        x_0 = (z - sigma_s epsilon) / alpha_s at the start timestep s (SwiftBrush, arXiv 2312.05239,
        sec. 3). `conditioning` is of B prompts.
        """
        timestep = torch.full((len(noise),), self.start_timestep, device=noise.device)
        output = self.predict(network, noise, timestep, conditioning)
        return self.schedule.to_latents(output, noise, timestep)


def load_backbone(
    source: str,
    *,
    start_timestep: int | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Backbone:
    """Open the teacher of a diffusers folder or hub id: network and schedule, no text encoder.

    Hub ids use the usual cache and variables (HF_HOME, HF_HUB_OFFLINE, HF_TOKEN). Only safetensors are read.

    Raises:
        ValueError: The pipeline is of no supported family, or its weights cannot be read.
    """
    family = family_of(source)
    network = load_network(source, family, dtype).to(device).requires_grad_(False).eval()
    schedule = load_schedule(source)
    start = resolve_start(source, schedule, start_timestep)
    schedule = schedule.to(torch.device(device))
    return Backbone(source, family, network, schedule, start, load_latent_scale(source))


def load_network(source: str, family: Family, dtype: torch.dtype) -> nn.Module:
    """Load the network of a pipeline folder or hub id.

    Raises:
        ValueError: The weights are missing, are not safetensors, or do not fit the config.
    """
    network: nn.Module = load_model(NETWORK_CLASSES[family.network], source, family.network, dtype)
    return network


def load_model(kind: type[Model], source: str, part: str, dtype: torch.dtype) -> Model:
    """Load the diffusers model in the component `part` of `source`, with all of its weights.

    Raises:
        ValueError: The weights are missing, are not safetensors, or do not fit the config.
    """
    # The hub is asked for the plain files only.
    variant = find_weights(source, part).variant if Path(source).is_dir() else None
    try:
        model, loaded = kind.from_pretrained(  # type: ignore[attr-defined]
            source,
            subfolder=part,
            dtype=dtype,
            use_safetensors=True,
            variant=variant,
            output_loading_info=True,
        )
    except Exception as error:  # the libraries raise many kinds for invalid files
        raise _unreadable(source, part, error) from None
    # diffusers initialises missing weights at random and continues.
    if missing := sorted(loaded["missing_keys"]):
        raise ValueError(
            f"backbone {source!r}: its {part} lacks {len(missing)} weights, such as {missing[0]}"
        )
    found: Model = model
    return found


def load_scheduler_config(source: str) -> dict[str, Any]:
    """Return the scheduler's config of a pipeline folder or hub id.

    Raises:
        ValueError: The config is missing or invalid.
    """
    try:
        config: dict[str, Any] = DDPMScheduler.load_config(source, subfolder="scheduler")
    except Exception as error:  # as above
        raise _unreadable(source, "scheduler", error) from None
    return config


def load_schedule(source: str) -> NoiseSchedule:
    """Return the noise schedule of a pipeline folder or hub id.

    Raises:
        ValueError: The scheduler's config is missing, or its schedule is not supported.
    """
    config = load_scheduler_config(source)
    try:
        return NoiseSchedule.from_config(config)
    except Exception as error:  # as above
        raise _unreadable(source, "scheduler", error) from None


def resolve_start(source: str, schedule: NoiseSchedule, start: int | None) -> int:
    """Return the timestep at which a student of `source` is called with pure noise; None: its family's.

    Raises:
        ValueError: It is not in the schedule, or x_0 cannot be computed from the noise predicted there.
    """
    start = family_of(source).start_timestep if start is None else start
    steps = len(schedule.alpha_bar)
    if not 0 < start < steps:
        raise ValueError(f"start_timestep {start} is outside the schedule of {source!r}, 1..{steps}")
    if start > schedule.last_start:
        raise ValueError(
            f"start_timestep {start} of {source!r}: its scheduler has alpha "
            f"{schedule.alpha_bar[start].sqrt():.1g} there, too little to compute x_0 from predicted noise: "
            f"set at most {schedule.last_start}"
        )
    return start


def load_latent_scale(source: str) -> int:
    """Return the pixels per side of one latent, from the autoencoder's config of a folder or hub id.

    Raises:
        ValueError: The config is missing, or is not one of an autoencoder.
    """
    try:
        levels: int = len(AutoencoderKL.load_config(source, subfolder="vae")["block_out_channels"])
    except Exception as error:  # as above
        raise _unreadable(source, "vae", error) from None
    return 1 << (levels - 1)


def _unreadable(source: str, part: str, error: Exception) -> ValueError:
    return ValueError(f"backbone {source!r}: its {part} cannot be read: {one_line(error)}")
