"""Random numbers of PG-SB's steps.

Shapes: B batch, N steps of the student, C latent channels, H latent height and width.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class FakeScoreDraws:
    """Random numbers of one update of the fake score."""

    timestep: Tensor
    """Timestep of the denoising loss, (B,)."""
    noise: Tensor
    """Noise of the denoising loss, (B, C, H, H)."""
    drop_prompt: Tensor
    """Samples whose prompt is replaced by the empty prompt, bool (B,)."""

    def __getitem__(self, rows: slice) -> "FakeScoreDraws":
        return FakeScoreDraws(self.timestep[rows], self.noise[rows], self.drop_prompt[rows])


@dataclass(frozen=True)
class PGSBDraws:
    """Random numbers of one step, for the global batch or for one worker's rows of it."""

    start_noise: Tensor
    """The student's input z, (B, C, H, H)."""
    timestep: Tensor
    """Timestep t at which teacher and fake score are compared, (B,)."""
    noise: Tensor
    """Noise that is added to the student's latents at that timestep, (B, C, H, H)."""
    scale: Tensor
    """Guidance scale k of the teacher, (B,)."""
    strength: Tensor
    """Strength alpha of NASA in the student, a scalar; 0 without negative prompts."""
    fake_score: tuple[FakeScoreDraws, ...]
    """Random numbers of each update of the fake score."""
    fake_score_scale: Tensor
    """Guidance scale of the fake score, (B,); the teacher's k unless `fake_score_interval` is set."""
    renoise: Tensor
    """Noise that is added between the student's steps, (B, N - 1, C, H, H) for N steps."""

    def __getitem__(self, rows: slice) -> "PGSBDraws":
        fake_score = tuple(update[rows] for update in self.fake_score)
        per_row = (self.start_noise[rows], self.timestep[rows], self.noise[rows], self.scale[rows])
        return PGSBDraws(*per_row, self.strength, fake_score, self.fake_score_scale[rows], self.renoise[rows])
