"""A teacher of any family behind one face: the network, its schedule, its way of being called.

Shapes: B batch, C latent channels, H latent size, S tokens, D text width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from diffusers import AutoencoderKL, DDPMScheduler, PixArtTransformer2DModel, UNet2DConditionModel
from diffusers.configuration_utils import FrozenDict
from torch import Tensor, nn

from workloads.backbones.conditioning import Conditioning
from workloads.backbones.families import Family, family_of
from workloads.backbones.noise_schedule import NoiseSchedule

Network = Callable[..., Any]
"""A diffusers network, or a DeepSpeed engine or DDP module around one."""

Model = TypeVar("Model", bound=nn.Module)

NETWORK_CLASSES = {"unet": UNet2DConditionModel, "transformer": PixArtTransformer2DModel}


@dataclass(frozen=True)
class Backbone:
    """A frozen teacher and all that is needed to call any network of its architecture."""

    source: str
    family: Family
    network: nn.Module
    """The teacher; frozen, in evaluation mode."""
    schedule: NoiseSchedule
    start_timestep: int
    """Timestep at which the one-step student reads pure noise."""
    latent_scale: int = 8
    """Pixels a side that one latent stands for."""

    @property
    def config(self) -> FrozenDict:
        config: FrozenDict = self.network.config
        return config

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.network.parameters()).dtype

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, H, H)."""
        size = self.config["sample_size"]
        return (self.config["in_channels"], size, size)

    def predict(
        self, network: Network, latents: Tensor, timestep: Tensor, conditioning: Conditioning
    ) -> Tensor:
        """The raw output of `network`, in float32 at least, (B, C, H, H), less any variance channels.

        Args:
            network: the teacher, or any network (or engine) of the same architecture.
            latents: (B, C, H, H), noisy.
            timestep: (B,), integers below 1000.
            conditioning: of B prompts.
        """
        latents, embeddings = latents.to(self.dtype), conditioning.embeddings.to(self.dtype)
        if self.family.network == "unet":
            added = self._added(latents, conditioning)
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
        """What PixArt takes besides at 1024 px: height and width in pixels, (B, 2); their ratio, (B, 1)."""
        if not self.network.use_additional_conditions:
            return {"resolution": None, "aspect_ratio": None}
        pixels = latents.new_full((len(latents), 2), self.latent_shape[-1] * self.latent_scale)
        return {"resolution": pixels, "aspect_ratio": latents.new_ones((len(latents), 1))}

    def _added(self, latents: Tensor, conditioning: Conditioning) -> dict[str, Any]:
        """What SDXL takes besides: pooled embeddings (B, P), and sizes in pixels, (B, 6).

        Sizes are original height and width, the crop's top and left, target height and width, here
        those of an uncropped picture at the backbone's own resolution, as its stock pipeline has it.
        """
        if conditioning.pooled is None:
            return {}
        # Filled on the device: to copy them there would have the host wait.
        sizes = latents.new_full((len(latents), 6), self.latent_shape[-1] * self.latent_scale)
        sizes[:, 2:4] = 0
        added = {"text_embeds": conditioning.pooled.to(self.dtype), "time_ids": sizes}
        return {"added_cond_kwargs": added}

    def epsilon(
        self, network: Network, latents: Tensor, timestep: Tensor, conditioning: Conditioning
    ) -> Tensor:
        """The noise that `network` sees in `latents`; shapes as in `predict`."""
        output = self.predict(network, latents, timestep, conditioning)
        return self.schedule.to_epsilon(output, latents, timestep)

    def one_step(self, network: Network, noise: Tensor, conditioning: Conditioning) -> Tensor:
        """The student's picture: latents x_0 (B, C, H, H) from pure `noise`, in one call.

        x_0 = (z - sigma_s epsilon) / alpha_s at the start timestep s (SwiftBrush, sec. 3).
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
    """Opens the teacher in a diffusers folder or hub id: network and schedule, no text encoder.

    Hub ids use the ordinary cache (HF_HOME, HF_HUB_OFFLINE, HF_TOKEN); safetensors only.

    Raises:
        ValueError: not a pipeline of a supported family, or its weights cannot be read.
    """
    family = family_of(source)
    network = load_network(source, family, dtype).to(device).requires_grad_(False).eval()
    schedule = load_schedule(source)
    steps = len(schedule.alpha_bar)
    start = family.start_timestep if start_timestep is None else start_timestep
    if not 0 < start < steps:
        raise ValueError(f"start_timestep {start} is outside the schedule of {source!r}, 1..{steps}")
    schedule = schedule.to(torch.device(device))
    return Backbone(source, family, network, schedule, start, load_latent_scale(source))


def load_network(source: str, family: Family, dtype: torch.dtype) -> nn.Module:
    """The family's network from `source`.

    Raises:
        ValueError: the weights are missing, are not safetensors, or do not fit the config.
    """
    network: nn.Module = load_model(NETWORK_CLASSES[family.network], source, family.network, dtype)
    return network


def load_model(kind: type[Model], source: str, part: str, dtype: torch.dtype) -> Model:
    """The component `part` of `source`, a diffusers model, with all of its weights.

    Raises:
        ValueError: the weights are missing, are not safetensors, or do not fit the config.
    """
    try:
        model, loaded = kind.from_pretrained(  # type: ignore[attr-defined]
            source, subfolder=part, dtype=dtype, use_safetensors=True, output_loading_info=True
        )
    except Exception as error:  # whatever the libraries raise for what a user's files hold
        raise unreadable(source, part, error) from None
    # Diffusers would train on what it has drawn at random in their place.
    if missing := sorted(loaded["missing_keys"]):
        raise ValueError(f"backbone {source!r}: its {part} lacks {len(missing)} weights, as {missing[0]}")
    found: Model = model
    return found


def load_scheduler_config(source: str) -> dict[str, Any]:
    """The scheduler's config of a pipeline folder or hub id.

    Raises:
        ValueError: it is not there, or is no config.
    """
    try:
        config: dict[str, Any] = DDPMScheduler.load_config(source, subfolder="scheduler")
    except Exception as error:  # as above
        raise unreadable(source, "scheduler", error) from None
    return config


def load_schedule(source: str) -> NoiseSchedule:
    """The noise schedule of a pipeline folder or hub id.

    Raises:
        ValueError: its config is not there, or means a schedule that is not supported.
    """
    config = load_scheduler_config(source)
    try:
        return NoiseSchedule.from_config(config)
    except Exception as error:  # as above
        raise unreadable(source, "scheduler", error) from None


def load_latent_scale(source: str) -> int:
    """Pixels a side that one latent of the autoencoder of a pipeline folder or hub id stands for.

    Raises:
        ValueError: its config is not there, or is none of an autoencoder.
    """
    try:
        levels: int = len(AutoencoderKL.load_config(source, subfolder="vae")["block_out_channels"])
    except Exception as error:  # as above
        raise unreadable(source, "vae", error) from None
    return 1 << (levels - 1)


def unreadable(source: str, part: str, error: Exception) -> ValueError:
    """One line about a component that a library could not open."""
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return ValueError(f"backbone {source!r}: its {part} cannot be read: {reason}")
