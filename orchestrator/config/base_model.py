"""What all sections of a sweep file have in common: no unknown key, no NaN, no boolean for a number."""

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


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty: give it some text, or leave the setting out")
    return text


Positive = Annotated[int, Field(gt=0, le=1_000_000)]
"""A count of things that are held in memory, or made one by one."""
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Text = Annotated[str, AfterValidator(_not_blank)]


class Strict(BaseModel):
    """A section of the file: unknown keys are errors, values are fixed once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_boolean(cls, value: Any, info: ValidationInfo) -> Any:
        name = info.field_name or ""
        return value if cls.model_fields[name].annotation is bool else _without_boolean(value)


def no_booleans(values: Any) -> Any:
    """`values` as they are.

    Raises:
        ValueError: naming the one that is true or false. (Python, and so pydantic, counts with them.)
    """
    for key, value in values.items() if isinstance(values, dict) else ():
        if found := _boolean_in(value):
            raise ValueError(f"{key}{found[0]} {_refusal(found[1])}")
    return values


def checked(kind: type[Settings], values: dict[str, Any]) -> Settings:
    """`values` as `kind`, a dataclass of settings without booleans.

    Raises:
        ValidationError: they do not fit.
    """
    adapter: TypeAdapter[Settings] = _adapter(kind)  # type: ignore[arg-type]
    found: Settings = adapter.validate_python(values)
    return found


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    """Kept, since making one takes as long as a hundred uses of it."""
    annotated: Any = Annotated[kind, BeforeValidator(no_booleans)]
    return TypeAdapter(annotated)


def _boolean_in(value: Any) -> tuple[str, bool] | None:
    """The first boolean in a setting, and its path below the setting."""
    if isinstance(value, bool):
        return "", value
    parts = value.items() if isinstance(value, dict) else ()
    for key, part in parts:
        if found := _boolean_in(part):
            return f".{key}{found[0]}", found[1]
    for part in value if isinstance(value, list) else ():
        if found := _boolean_in(part):
            return found
    return None


def _without_boolean(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError(_refusal(value))
    return value


def _refusal(value: bool) -> str:
    return f"is {str(value).lower()} (as yes, no, on and off are, in YAML): give a number, or quote the text"
