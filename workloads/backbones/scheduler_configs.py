"""What the config of a diffusers scheduler says about its network. Imports no torch."""

from typing import Any


def is_flow(config: dict[str, Any]) -> bool:
    """Return True for a scheduler of flow matching.

    Schedulers of FlowMatch classes are; others, such as the DPM solver of SANA's folders, if they use its
    sigmas.
    """
    name = str(config.get("_class_name", ""))
    return name.startswith("FlowMatch") or bool(config.get("use_flow_sigmas"))


def prediction_of(config: dict[str, Any]) -> str:
    """Return the quantity that the network predicts, as diffusers names it."""
    return "flow_prediction" if is_flow(config) else str(config.get("prediction_type", "epsilon"))
