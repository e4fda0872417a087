"""YAML without surprises: what a reader of the file sees is what the program gets, or one line says why not.

Scalars follow YAML 1.2: ``true`` and ``false``, ``null``, decimal numbers, and text. What YAML 1.1 reads otherwise than
most people (``0100`` as 64, ``1:30`` as 90, ``yes`` as true, dates) is refused, and so are numbers that are not finite,
keys that stand twice, and files that unfold to something huge.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterator
from typing import Any

import yaml

DEEPEST = 40
"""Levels of mappings and lists within each other, in YAML and in JSON."""
LARGEST = 200_000
"""Values in a file, those that stand for aliases (``*name``) included."""
MOST_DIGITS = 18
"""Digits of a whole number, so that it fits 64 bits."""

_NUMBER = re.compile(r"[-+]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")
_WHOLE = re.compile(r"[-+]?[0-9]+")
_OLD_NUMBER = re.compile(
    r"[-+]?(0x[0-9A-Fa-f_]+|0[bo]?[0-9_]+|[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?|[0-9][0-9_]*(\.[0-9_]*)?([eE][-+]?[0-9]+)?)"
)
_DATE = re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([Tt ].*)?")
_INFINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_WORDS: dict[str, Any] = {"": None, "~": None}
_WORDS |= {form: value for word, value in (("null", None), ("true", True), ("false", False))
           for form in (word, word.title(), word.upper())}  # fmt: skip
_OLD_WORDS = {form for word in ("yes", "no", "on", "off") for form in (word, word.title(), word.upper())}


class Flaw(ValueError):
    """What is wrong with a YAML text; ``str`` is the line and column or the line and key, and the rest of a message."""


def parse(text: str) -> Any:
    """The value that a YAML text stands for, made of mappings, lists, texts, numbers, true, false and None.

    Raises:
        Flaw: it is no YAML, or holds something that would not be read as it looks.
    """
    try:
        return _Builder(yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))).document()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "a character that text does not have"
        raise Flaw(f": not valid YAML{where}: {problem}; mend the file and run again") from error


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1


class _Builder:
    """Builds the value of a document from the parser's events, so that depth and size are bounded as it goes."""

    def __init__(self, events: Iterator[yaml.Event]) -> None:
        self.events, self.count, self.deepest = events, 0, 0
        self.path: list[str] = []
        self.anchors: dict[str, tuple[Any, int, int]] = {}  # name -> value, values and levels in it

    def document(self) -> Any:
        value = None
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                if self.count:
                    raise self.flaw(event, "a second document (---); one was expected; remove the other")
                value = self.value(next(self.events))
        return value

    def flaw(self, event: yaml.Event, problem: str) -> Flaw:
        place = f", key {'.'.join(self.path)}".replace(".[", "[") if self.path else ""
        return Flaw(f", line {_line(event)}{place}: {problem}")

    def value(self, event: Any) -> Any:
        if isinstance(event, yaml.AliasEvent):
            return self.alias(event)
        before, above = self.count, self.deepest
        self.counted(event, 1, 0)
        self.deepest = len(self.path)
        if isinstance(event, yaml.ScalarEvent):
            made = self.scalar(event)
        else:
            made = self.sequence() if isinstance(event, yaml.SequenceStartEvent) else self.mapping()
        if event.anchor is not None:
            self.anchors[event.anchor] = (made, self.count - before, self.deepest - len(self.path))
        self.deepest = max(self.deepest, above)
        return made

    def alias(self, event: yaml.AliasEvent) -> Any:
        if event.anchor not in self.anchors:
            raise self.flaw(event, f"*{event.anchor} stands for nothing; &{event.anchor} before it was expected")
        made, values, levels = self.anchors[event.anchor]
        self.counted(event, values, levels)
        return copy.deepcopy(made)

    def counted(self, event: yaml.Event, values: int, levels: int) -> None:
        self.count += values
        self.deepest = max(self.deepest, len(self.path) + levels)
        if self.count > LARGEST:
            raise self.flaw(event, f"the file unfolds to more than {LARGEST} values; a smaller one was expected")
        if len(self.path) + levels > DEEPEST:
            raise self.flaw(event, f"more than {DEEPEST} levels within each other; a flatter file was expected")

    def sequence(self) -> list[Any]:
        made: list[Any] = []
        for event in self.events:
            if isinstance(event, yaml.SequenceEndEvent):
                break
            self.path.append(f"[{len(made) + 1}]")
            made.append(self.value(event))
            self.path.pop()
        return made

    def mapping(self) -> dict[Any, Any]:
        own: dict[Any, Any] = {}
        lines: dict[Any, int] = {}
        merged: list[Any] = []
        for event in self.events:
            if isinstance(event, yaml.MappingEndEvent):
                break
            merge = isinstance(event, yaml.ScalarEvent) and event.value == "<<" and event.implicit[0]
            key = "<<" if merge else self.value(event)
            if isinstance(key, dict | list):
                raise self.flaw(event, "a mapping or a list as a key; a text was expected")
            if key in lines:
                raise self.flaw(
                    event,
                    f"the key {str(key)!r} stands twice in one mapping, first in line {lines[key]}; once was expected; "
                    "remove one",
                )
            lines[key] = _line(event)
            self.path.append(str(key))
            value = self.value(next(self.events))
            self.path.pop()
            if merge:
                merged = value if isinstance(value, list) else [value]
                if not all(isinstance(each, dict) for each in merged):
                    raise self.flaw(event, "<< with something else than mappings; *name of a mapping was expected")
            else:
                own[key] = value
        return {key: value for each in [*merged[::-1], own] for key, value in each.items()}

    def scalar(self, event: yaml.ScalarEvent) -> Any:
        text: str = event.value
        if event.tag not in (None, "!", "tag:yaml.org,2002:str"):
            raise self.flaw(event, f"the tag {event.tag}; a value without one was expected; leave it out")
        if not event.implicit[0]:  # in quotes, or !!str
            return text
        if text in _WORDS:
            return _WORDS[text]
        if text in _OLD_WORDS:
            raise self.flaw(event, f"{text}; true, false, or text in quotes ('{text}') was expected")
        if text[0] not in "0123456789.+-":
            return text
        if _INFINITE.fullmatch(text):
            raise self.flaw(event, f"{text}; a finite number was expected; correct it")
        if _NUMBER.fullmatch(text):
            return self.number(event, text)
        if _OLD_NUMBER.fullmatch(text) or _DATE.fullmatch(text):
            raise self.flaw(event, f"{text}; a plain decimal number, or text in quotes ('{text}') was expected")
        return text

    def number(self, event: yaml.ScalarEvent, text: str) -> int | float:
        if _WHOLE.fullmatch(text):
            if len(text) > MOST_DIGITS:
                raise self.flaw(event, f"a number of {len(text)} digits; at most {MOST_DIGITS} were expected")
            return int(text)
        if math.isinf(value := float(text)):
            raise self.flaw(event, f"{text[:20]}, which is infinite; a finite number was expected; correct it")
        return value
