"""Everything that a training process computes with: backbones, objectives, students and scorers.

Nothing here imports Ray, MLflow or DeepSpeed, so the package runs by itself on one machine. Start at
`backbones.backbone` (one interface to the teachers of all families) and `objectives` (the losses of a
training step); `miniature` contains small teachers with their weights to try both on.
"""

from workloads import torchvision_operators

torchvision_operators.install_import_hook()
