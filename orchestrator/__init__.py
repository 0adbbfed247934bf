"""Where and when distillation happens: the sweep file, its plan, and the stages that carry it out.

The way through: `run` reads a `sweep`, makes a `plan`, has `prompts` encode the prompts and
`reference` draw what the teachers draw; `search` then gives each trial to a training `group`,
and `tracking` (which alone knows MLflow) records it all. `engine` alone knows DeepSpeed.
"""

# Before any of diffusers and transformers: see `workloads.torchvision_operators`.
import workloads  # noqa: F401
