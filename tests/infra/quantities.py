"""Kubernetes' quantities as numbers."""

_POWERS = {"Ki": -20, "Mi": -10, "Gi": 0, "Ti": 10}


def cpus(quantity: str | float) -> float:
    text = str(quantity)
    return float(text[:-1]) / 1000 if text.endswith("m") else float(text)


def gibibytes(quantity: str) -> float:
    return float(quantity[:-2]) * 2.0 ** _POWERS[quantity[-2:]]
