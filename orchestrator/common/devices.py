"""The device that a process computes on."""

import ray
import torch

from orchestrator.common.errors import UserError


def process_device() -> str:
    """Return "cuda" if torch sees a GPU in this process, else "cpu".

    Raises:
        UserError: Ray gave this process a GPU that torch cannot use. On the CPU the work would take weeks,
            on a node that is paid for its GPUs.
    """
    if torch.cuda.is_available():
        return "cuda"
    if _has_gpu_of_ray():
        raise UserError(
            f"node {ray.util.get_node_ip_address()}: Ray assigned a GPU to this process, but torch sees none "
            f"(torch {torch.__version__}): on the node run nvidia-smi, and python -c 'import torch; "
            f"torch.cuda.init()'; in a container of GKE LD_LIBRARY_PATH must hold /usr/local/nvidia/lib64, "
            f"and the driver must be new enough for this torch"
        )
    return "cpu"


def _has_gpu_of_ray() -> bool:
    return ray.is_initialized() and bool(ray.get_runtime_context().get_accelerator_ids().get("GPU"))
