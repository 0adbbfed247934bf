"""Objectives: the losses that one training step minimises, one module per objective.

A training uses the modules in this order:

- `catalogue` turns the settings of a training into its objective.
- `columns` lists what that objective needs of each prompt besides the conditioning; the data stage
  encodes it once and stores it in the prompt shards.
- `batch` holds one step's inputs: conditioning of the prompts and negative prompts, and the columns.
- `base` defines the interface. An objective draws the random numbers of a step and yields one
  `Update` (a network and its loss) after another.
- `pgsb` (PG-SB, SwiftBrush, DMD's gradient), `boot` (BOOT) and `regression` (on the teacher pairs of
  `pairs`) are the objectives.
- `terms` adds losses to that of the student: `clip_loss` (SwiftBrush v2), `adversarial` (Diffusion2GAN) and
  `relational` (RDD).
- The other modules are their helpers.

The training loop, the checkpoints and the memory estimate use the interface alone, so they work with
any number of updates of any number of networks.

`README.md` has the steps of adding an objective.
"""
