"""One interface to the teachers of all families: the network, its noise schedule and its call.

`load_backbone` opens a teacher. `Backbone.epsilon` and `Backbone.one_step` call it, or any network of the
same architecture (a student, an engine around one, the fake score), with latents and conditioning.

Shapes: B batch, C latent channels, H latent size, P pooled width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import DDPMScheduler
from diffusers.configuration_utils import FrozenDict
from torch import Tensor, nn

from workloads.backbones.autoencoders import AUTOENCODERS, latent_size
from workloads.backbones.families import Family, family_of
from workloads.backbones.hub import split_source
from workloads.backbones.load_errors import one_line
from workloads.backbones.loras.entry import Lora
from workloads.backbones.loras.merge import merged
from workloads.backbones.network_calls import NETWORKS, Inputs, Network, NetworkKind
from workloads.backbones.noise_schedule import NoiseSchedule
from workloads.backbones.prompts.conditioning import Conditioning
from workloads.backbones.weight_files import find_weights

Model = TypeVar("Model", bound=nn.Module)


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
    """Timestep at which a student is called with pure noise; for one of several steps see `rungs`."""
    latent_scale: int = 8
    """Pixels per side of one latent."""
    latent_size: int | None = None
    """Latent size H of a network whose config has no `sample_size`."""
    rungs: NoiseSchedule | None = None
    """Noise levels at which a student of several steps is called, the first of pure noise; None: a student of
    one step, called at the start timestep."""
    loras: tuple[Lora, ...] = ()
    """LoRAs that are merged into the network and into the text encoders."""

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
        size = self.latent_size or self.config["sample_size"]
        return (self.config["in_channels"], size, size)

    @property
    def student_steps(self) -> int:
        """Number of network calls with which a student draws."""
        return 1 if self.rungs is None else len(self.rungs)

    @property
    def token_size(self) -> int:
        """Latents per side of one token of a transformer; 1 for a UNet."""
        return self.kind.token_size(self.config)

    @property
    def kind(self) -> NetworkKind:
        """How networks of this architecture are called."""
        return network_kind(self.family)

    def with_flow_shift(self, shift: float | None) -> "Backbone":
        """Return this backbone with another shift of its flow-matching timesteps; None: its own.

        Raises:
            ValueError: The backbone is not of flow matching.
        """
        if shift is None:
            return self
        if not self.schedule.is_flow:
            raise ValueError(f"flow_shift is for flow matching, but {self.source!r} is not: leave it out")
        return replace(self, schedule=self.schedule.shifted(shift))

    def predict(
        self, network: Network, latents: Tensor, timestep: Tensor, conditioning: Conditioning
    ) -> Tensor:
        """Return the raw output of `network` without variance channels, (B, C, H, H), at least float32.

        Args:
            network: The teacher, or any network or engine of the same architecture.
            latents: (B, C, H, H), noisy.
            timestep: (B,), integers below 1000.
            conditioning: Conditioning of B prompts, with guidance scales if `network` reads them.
        """
        pixels = self.latent_shape[-1] * self.latent_scale
        text = conditioning.to(latents.device, self.dtype)
        inputs = Inputs(latents.to(self.dtype), self.schedule.time[timestep], text, pixels)
        if text.guidance_scale is not None:
            network = partial(network, guidance_scale=text.guidance_scale)
        output = self.kind.call(network, self.network, inputs)
        channels = self.latent_shape[0]
        widened = torch.promote_types(output.dtype, torch.float32)
        prediction: Tensor = output[:, :channels].to(widened)
        return prediction

    def epsilon(
        self, network: Network, latents: Tensor, timestep: Tensor, conditioning: Conditioning
    ) -> Tensor:
        """Return the noise (B, C, H, H) that `network` predicts in `latents`; arguments as in `predict`."""
        output = self.predict(network, latents, timestep, conditioning)
        return self.schedule.to_epsilon(output, latents, timestep)

    def one_step(self, network: Network, noisy: Tensor, conditioning: Conditioning, rung: int = 0) -> Tensor:
        """Return the student's latents x_0 (B, C, H, H) for its input `noisy` (B, C, H, H), in one call.

        At rung 0 the input is pure noise z. In one step x_0 = (z - sigma_s epsilon) / alpha_s at the start
        timestep s (SwiftBrush, arXiv 2312.05239, sec. 3); in flow matching x_0 = z - v(z, t = 1).
        `conditioning` is of B prompts.
        """
        at = self if self.rungs is None else replace(self, schedule=self.rungs)
        first = self.start_timestep if self.rungs is None else 0
        timestep = torch.full((len(noisy),), first + rung, device=noisy.device)
        output = at.predict(network, noisy, timestep, conditioning)
        return at.schedule.to_latents(output, noisy, timestep)

    def renoise(self, latents: Tensor, noise: Tensor, rung: int) -> Tensor:
        """Return the student's input at `rung`, from 1, given x_0 and noise; all (B, C, H, H)."""
        assert self.rungs is not None, "a student of one step is called once"
        return self.rungs.alpha[rung] * latents + self.rungs.sigma[rung] * noise


def load_backbone(
    source: str,
    *,
    start_timestep: int | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    loras: Sequence[Lora] = (),
) -> Backbone:
    """Open the teacher of a diffusers folder or hub id: network with `loras`, and schedule; no text encoder.

    Hub ids use the usual cache and variables (HF_HOME, HF_HUB_OFFLINE, HF_TOKEN). Only safetensors are read.

    Raises:
        ValueError: The pipeline is of no supported family, its weights cannot be read, or a LoRA does not
            fit.
    """
    family = family_of(source)
    network = load_network(source, family, dtype, loras).to(device).requires_grad_(False).eval()
    schedule = load_schedule(source)
    start = resolve_start(source, schedule, start_timestep)
    schedule = schedule.to(torch.device(device))
    scale, size = load_latent_sizes(source, family, network.config)
    return Backbone(source, family, network, schedule, start, scale, size, loras=tuple(loras))


def network_kind(family: Family) -> NetworkKind:
    """Return how networks of `family` are made and called."""
    return NETWORKS[family.network_classes[0]]


def load_network(source: str, family: Family, dtype: torch.dtype, loras: Sequence[Lora] = ()) -> nn.Module:
    """Load the network of a pipeline folder or hub id, with `loras` merged into it.

    Raises:
        ValueError: The weights are missing, are not safetensors, or do not fit the config; or a LoRA does not
            fit the network.
    """
    kind: type[nn.Module] = network_kind(family).model
    return merged(
        lambda at: load_model(kind, source, family.network, at), source, family.network, loras, dtype
    )


def load_model(kind: type[Model], source: str, part: str, dtype: torch.dtype) -> Model:
    """Load the diffusers model in the component `part` of `source`, with all of its weights.

    Raises:
        ValueError: The weights are missing, are not safetensors, or do not fit the config.
    """
    # The hub is asked for the plain files only.
    variant = find_weights(source, part).variant if Path(source).is_dir() else None
    name, revision = split_source(source)
    try:
        model, loaded = kind.from_pretrained(  # type: ignore[attr-defined]
            name,
            revision=revision,
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
    name, revision = split_source(source)
    try:
        config: dict[str, Any] = DDPMScheduler.load_config(name, revision=revision, subfolder="scheduler")
    except Exception as error:  # as above
        raise _unreadable(source, "scheduler", error) from None
    return config


def load_schedule(source: str) -> NoiseSchedule:
    """Return the noise schedule of a pipeline folder or hub id.

    Raises:
        ValueError: The scheduler's config is missing, or its schedule is not supported.
    """
    config, family = load_scheduler_config(source), family_of(source)
    try:
        schedule = NoiseSchedule.from_config(config)
    except Exception as error:  # as above
        raise _unreadable(source, "scheduler", error) from None
    if schedule.is_flow != family.flow:
        wanted = "flow matching" if family.flow else "an alpha_bar schedule"
        raise ValueError(
            f"backbone {source!r}: its scheduler {config.get('_class_name')} does not suit "
            f"{family.pipeline}, which needs {wanted}"
        )
    return schedule


def resolve_start(source: str, schedule: NoiseSchedule, start: int | None) -> int:
    """Return the timestep at which a student of `source` is called with pure noise; None: its family's.

    Raises:
        ValueError: It is not in the schedule, or x_0 cannot be computed from the noise predicted there.
    """
    start = family_of(source).start_timestep if start is None else start
    steps = len(schedule)
    if not 0 < start < steps:
        raise ValueError(f"start_timestep {start} is outside the schedule of {source!r}, 1..{steps}")
    if start > schedule.last_start:
        raise ValueError(
            f"start_timestep {start} of {source!r}: its scheduler has alpha "
            f"{schedule.alpha[start]:.1g} there, too little to compute x_0 from predicted noise: "
            f"set at most {schedule.last_start}"
        )
    return start


def load_latent_sizes(source: str, family: Family, network: Any) -> tuple[int, int]:
    """Return the pixels per side of one latent, and the latents per side of a picture.

    Args:
        source: Folder or hub id, whose autoencoder's config is read.
        family: The family of `source`.
        network: Config of the network.

    Raises:
        ValueError: The config is missing, or is not one of an autoencoder.
    """
    kind: Any = AUTOENCODERS[family.autoencoder]
    name, revision = split_source(source)
    try:
        config = kind.model.load_config(name, revision=revision, subfolder="vae")
        return kind.scale(config), latent_size(network, config, kind)
    except Exception as error:  # as above
        raise _unreadable(source, "vae", error) from None


def _unreadable(source: str, part: str, error: Exception) -> ValueError:
    return ValueError(f"backbone {source!r}: its {part} cannot be read: {one_line(error)}")
