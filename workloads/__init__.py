"""What happens inside a worker: backbones, objectives, pictures, scores. Nothing of the cluster.

Start at `backbone` (a teacher of any family behind one face) and `objectives` (what a step of
training minimises); `miniature` is a complete small world to try both on.
"""

from workloads import torchvision_operators

torchvision_operators.prepare()
