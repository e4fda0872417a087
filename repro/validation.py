"""Typed reading: the content of a YAML or JSON file against a model, and what does not fit as one line.

A model is a mapping with exactly the keys that it declares. Texts, numbers and truth values are never converted into
each other, and numbers are finite. The line names the file, the place in it, what was found, what was expected and what
to do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar, overload

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    WrapValidator,
    model_validator,
)
from pydantic_core import PydanticCustomError, core_schema

from repro.errors import ReproError, did_you_mean
from repro.files import kind_of, parsed_yaml, read_text

T = TypeVar("T")


class Model(BaseModel):
    """A mapping with the declared keys and, if it is ``closed``, no others; ``hint`` says what to do with those."""

    hint: ClassVar[str] = "correct or remove it"
    closed: ClassVar[bool] = True
    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, protected_namespaces=(), defer_build=True
    )

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, content: Any) -> Any:
        """An unknown key is answered with the nearest known one, which pydantic's own answer does not name."""
        if isinstance(content, dict) and cls.closed:
            known = [field.alias or name for name, field in cls.model_fields.items()]
            for key in content:
                if key not in known:
                    near = did_you_mean(str(key), known) or f"one of {', '.join(known)} was expected; "
                    raise flaw(f"unknown key {key!r}; {near}{cls.hint}")
        return content

    def given(self) -> dict[str, Any]:
        """The keys that the file gives, with their values."""
        return {name: getattr(self, name) for name in self.model_fields_set}


def misfit(path: Path | str, place: str, found: Any, expected: str, remedy: str = "correct it") -> ReproError:
    """The error of a value that a file may not have: what was found at ``place`` and what was ``expected``."""
    return ReproError(f"{path}, key {place}: {kind_of(found)}; {expected} was expected; {remedy}")


def flaw(problem: str) -> PydanticCustomError:
    """An error for validators to raise; ``problem`` says what was found, expected, and what to do."""
    return PydanticCustomError("flaw", "{problem}", {"problem": problem})


def expecting(words: str) -> WrapValidator:
    """Annotation: whatever does not fit the type is answered with "``words`` was expected"."""

    def check(value: Any, handler: Callable[[Any], Any]) -> Any:
        try:
            return handler(value)
        except ValidationError as error:
            raise PydanticCustomError("expecting", "{words}", {"words": words}) from error

    return WrapValidator(check)


def where(holds: Callable[[Any], bool]) -> AfterValidator:
    """Annotation: values for which ``holds`` is false do not fit; ``expecting`` around it says what does."""

    def check(value: Any) -> Any:
        if not holds(value):
            raise ValueError
        return value

    return AfterValidator(check)


@dataclass(frozen=True)
class OneOf:
    """Annotation: one of these words. (``Literal`` takes no words that are computed.)"""

    words: tuple[str, ...]

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        return core_schema.literal_schema(list(self.words))


def optional() -> Any:
    """A key that may be left out. It has no empty value: ``key: null`` does not fit."""
    return Field(default=None, json_schema_extra=_without_default)


def _without_default(schema: dict[str, Any]) -> None:
    schema.pop("default")


Text = Annotated[str, Field(pattern=r"\S"), expecting("a non-empty text")]
Texts = Annotated[list[Text], Field(min_length=1), expecting("a list of texts")]
Number = Annotated[int | float, expecting("a number")]
"""A finite number, kept as it is written: 2 stays a whole number."""
Positive = Annotated[int | float, where(lambda number: number > 0), expecting("a positive number")]
FromZero = Annotated[int | float, where(lambda number: number >= 0), expecting("a number from 0 up")]


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


@overload
def fitting(kind: type[T], content: Any, path: Path | str, place: str = "") -> T: ...
@overload
def fitting(kind: Any, content: Any, path: Path | str, place: str = "") -> Any: ...
def fitting(kind: Any, content: Any, path: Path | str, place: str = "") -> Any:
    """``content`` as a ``kind`` (a model, or any type that pydantic knows).

    Args:
        kind: what it must be.
        content: as YAML or JSON was read.
        path: the file, or what else holds ``content``, for messages.
        place: where in the file ``content`` stands, for messages; empty: it is the whole file.

    Raises:
        ReproError: it does not fit; the first misfit in one line.
    """
    try:
        return _adapter(kind).validate_python(content)
    except ValidationError as error:
        raise ReproError(_one_line(error, content, path, place)) from error


def load(kind: type[T], path: Path) -> T:
    """The content of a YAML file as a ``kind``; shared by all who read the same text, so not to be changed.

    Raises:
        ReproError: the file is missing, is not YAML, or does not fit.
    """
    of_kind: Any = kind
    made: T = _loaded(of_kind, read_text(path), path)
    return made


@lru_cache(maxsize=32)
def _loaded(kind: Any, text: str, path: Path) -> Any:
    return fitting(kind, parsed_yaml(text, path), path)


_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "text",
    "string_pattern_mismatch": "text of the form {pattern}",
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "list_type": "a list",
    "too_short": "a list or mapping of at least {min_length}",
    "too_long": "a list or mapping of at most {max_length}",
    "greater_than": "a number above {gt:g}",
    "greater_than_equal": "a number from {ge:g} up",
    "less_than": "a number below {lt:g}",
    "less_than_equal": "a number up to {le:g}",
    "expecting": "{words}",
}
"""Kind of error -> what was expected, in words."""


def _one_line(error: ValidationError, content: Any, path: Path | str, place: str) -> str:
    """The first misfit of ``content`` in one line."""
    errors = error.errors(include_url=False)
    first, kind, context = errors[0], errors[0]["type"], errors[0].get("ctx", {})
    keys, found = _walked(first["loc"], content, missing=kind == "missing")
    if kind in ("union_tag_invalid", "union_tag_not_found"):  # which of several models: told by one of the keys
        name = context["discriminator"].strip("'")
        if isinstance(found, Mapping):
            keys, found = [*keys, name], found.get(name)
    where = ".".join([*([place] if place else []), *keys]).replace(".[", "[")
    where = f"{path}, key {where}" if where else str(path)
    if kind == "flaw":
        return f"{where}: {context['problem']}"
    if kind == "missing" or (kind == "union_tag_not_found" and found is None):
        return f"{where}: missing; a value was expected; add it"
    if kind == "union_tag_not_found":
        return f"{where}: {kind_of(found)}; a mapping was expected; correct it"
    of_place = [each for each in errors if _walked(each["loc"], content, missing=False) == (keys, found)] or [first]
    ways = dict.fromkeys(_expected(each["type"], each.get("ctx", {}), each["msg"]) for each in of_place)
    expected = " or ".join(way for way in ways if way != "a whole number" or "a number" not in ways)
    known = [name for way in ways if way.startswith("one of ") for name in way.removeprefix("one of ").split(", ")]
    near = did_you_mean(found, known).strip() if isinstance(found, str) else ""
    return f"{where}: {kind_of(found)}; {expected} was expected; {near or 'correct it'}"


def _expected(kind: str, context: Mapping[str, Any], message: str) -> str:
    if kind in ("literal_error", "union_tag_invalid"):
        given = str(context.get("expected", context.get("expected_tags")))
        options = re.findall(r"'([^']*)'", given)
        return f"one of {', '.join(options)}" if options else {"True": "true"}.get(given, given)
    return _EXPECTED.get(kind, message).format(**context)


def _walked(steps: Iterable[int | str], content: Any, missing: bool) -> tuple[list[str], Any]:
    """The keys on the way to a misfit, and what stands there.

    Entries of lists are named by their id where they have one. What pydantic adds for itself (which of several models
    it tried) is left out.
    """
    steps, keys, here = list(steps), list[str](), content
    for number, step in enumerate(steps):
        if isinstance(here, list) and isinstance(step, int) and step < len(here):
            here = here[step]
            named = here.get("id") if isinstance(here, dict) else None
            keys.append(f"[{named}]" if isinstance(named, str) else f"[{step + 1}]")
        elif isinstance(here, dict) and step in here:
            here = here[step]
            keys.append(str(step))
        elif missing and number == len(steps) - 1:
            keys.append(str(step))
    return keys, here
