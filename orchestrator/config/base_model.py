"""Base of all sections of a sweep file, and strict validation of values as YAML and JSON have them."""

import json
from functools import cache
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter

Kind = TypeVar("Kind")


def _check_not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty: give it some text, or leave the setting out")
    return text


Positive = Annotated[int, Field(gt=0, le=1_000_000)]
"""A count of things that are held in memory, or made one by one."""
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Text = Annotated[str, AfterValidator(_check_not_blank)]


class Section(BaseModel):
    """A section of the file: unknown keys are errors, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def validate(kind: type[Kind], data: object) -> Kind:
    """Return `data` as `kind`, a `Section` or a dataclass of settings.

    pydantic's strict mode refuses booleans and text in place of numbers; from JSON it accepts lists for
    tuples.

    Raises:
        ValidationError: a value does not fit.
    """
    found: Kind = _adapter(kind).validate_json(json.dumps(data), strict=True)  # type: ignore[arg-type]
    return found


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    """Return the cached adapter of `kind`: making one takes as long as a hundred uses of it."""
    return TypeAdapter(kind)
