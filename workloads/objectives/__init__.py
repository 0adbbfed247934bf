"""Objectives: the losses that one training step minimises, one module per objective.

A training uses the modules in this order:

- `catalogue` turns the settings of a training into its objective.
- `columns` lists what that objective needs of each prompt besides the conditioning; the data stage
  encodes it once and stores it in the prompt shards.
- `batch` holds one step's inputs: conditioning of the prompts and negative prompts, and the columns.
- `base` defines the interface. An objective draws the random numbers of a step and yields one
  `Update` (a network and its loss) after another.
- `pgsb` (PG-SB, SwiftBrush, DMD's gradient) and `boot` (BOOT) are the objectives. `clip_loss` adds the
  CLIP loss of SwiftBrush v2 to an objective whose student update has latents; settings allow it for
  `pgsb` alone.
- `classifier_free_guidance` and `clip_model` are their helpers.

The training loop, the checkpoints and the memory estimate use the interface alone, so they work with
any number of updates of any number of networks.

To add an objective:

1. Write `objectives/<name>.py`: a frozen dataclass with the random numbers of a step, and a subclass
   of `base.Objective` with `metric_names`, `draw` and `updates`. `boot` is the example without an
   auxiliary network, `pgsb` the one with. Do not read values of tensors on the host (`.item()`,
   branches on values): the memory estimate runs `updates` on meta tensors, and a step must not
   wait for the device.
2. In `settings/objectives.py` add its settings, and its name to `OBJECTIVES` and `DESCRIPTIONS`. In
   `settings/train.py` add a field for its settings and the name to `TrainSettings.objective`. Mark the
   field `ADDED_LATER`, so that the digests of existing trials do not change; name it in `COST_SETTINGS` if it
   changes shapes or the number of operations; refuse unusable combinations in `_check_objective`.
   A published method that is an existing objective with other settings needs a row in `PRESETS` alone.
3. Return it from `catalogue.make_objective`.
4. If it needs more of a prompt than the conditioning, write a `Column`, return it from
   `columns.columns_of` and set `Objective.columns` to its name and width.
5. Add its settings to `ARMS` in `tests/workloads/objectives/test_catalogue.py`, which trains every
   objective on every miniature backbone, and to `OTHERS` in
   `tests/workloads/training/test_memory_estimate.py`. Check its losses and gradients against an
   independent float64 derivation, as `test_boot.py` does.

Designs for three other kinds of objective:

- A GAN objective has an `Auxiliary` "discriminator". The latents of real images are a column, whose
  encoder looks up the image that belongs to a prompt. `updates` yields the student's adversarial
  loss, then the discriminator's loss on the column and on the student's detached latents.
- A paired regression has two columns: a noise that is a function of the prompt, and the teacher's
  latents from that noise, whose encoder holds the teacher's pipeline. `updates` yields one loss of the
  student, which starts from the noise of the column instead of one from `draw`.
- Another trajectory objective is `boot` with another target.
"""
