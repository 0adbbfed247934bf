"""Sweeps of distillations on a cluster: sweep files, plans, launches, and their record in MLflow.

`README.md` beside this file lists the packages, and the path of a prompt and of a report through them. The
interface for programs is `orchestrator.api`.
"""

# Before any of diffusers and transformers: see `workloads.torchvision_operators`.
import workloads  # noqa: F401
