"""Base of all sections of a sweep file: unknown keys, NaN and booleans in place of numbers are errors."""

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationInfo,
    field_validator,
)

Settings = TypeVar("Settings")


def _check_not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty: give it some text, or leave the setting out")
    return text


Positive = Annotated[int, Field(gt=0, le=1_000_000)]
"""A count of things that are held in memory, or made one by one."""
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Text = Annotated[str, AfterValidator(_check_not_blank)]


class Strict(BaseModel):
    """A section of the file: unknown keys are errors, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _check_boolean(cls, value: Any, info: ValidationInfo) -> Any:
        expected = cls.model_fields[info.field_name or ""].annotation
        if isinstance(value, bool) and expected is not bool:
            raise ValueError(_boolean_message(value))
        return value


def refuse_booleans(values: Any) -> Any:
    """Return `values` unchanged.

    Raises:
        ValueError: a setting is true or false; the message begins with its path. Python counts booleans
            as integers, and so does pydantic.
    """
    for key, value in values.items() if isinstance(values, dict) else ():
        if found := _find_boolean(value):
            raise ValueError(f"{key}{found[0]} {_boolean_message(found[1])}")
    return values


def validate_settings(kind: type[Settings], values: Mapping[str, object]) -> Settings:
    """Return `values` as `kind`, a dataclass of settings without booleans.

    Raises:
        ValidationError: a value does not fit.
    """
    adapter: TypeAdapter[Settings] = _adapter(kind)  # type: ignore[arg-type]
    found: Settings = adapter.validate_python(values)
    return found


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    """Return the cached adapter of `kind`: making one takes as long as a hundred uses of it."""
    annotated: Any = Annotated[kind, BeforeValidator(refuse_booleans)]
    return TypeAdapter(annotated)


def _find_boolean(value: Any) -> tuple[str, bool] | None:
    """Return the first boolean in a setting and its path below the setting; None if there is none."""
    if isinstance(value, bool):
        return "", value
    parts = value.items() if isinstance(value, dict) else ()
    for key, part in parts:
        if found := _find_boolean(part):
            return f".{key}{found[0]}", found[1]
    for part in value if isinstance(value, list) else ():
        if found := _find_boolean(part):
            return found
    return None


def _boolean_message(value: bool) -> str:
    return (
        f"is {str(value).lower()} (YAML reads yes, no, on and off as booleans): give a number, or quote "
        f"the text"
    )
