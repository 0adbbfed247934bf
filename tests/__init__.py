# Before any of diffusers and transformers: see `workloads.torchvision_operators`.
import workloads  # noqa: F401
