"""What ``data/published.yaml`` and ``data/ledger.yaml`` may hold: artefacts, statements and choices."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from repro.registry.rule_models import Judge
from repro.validation import Model, Text, Texts, expecting, flaw, optional

Data = Annotated[
    str | int | float | dict[Any, Any] | list[Any] | None, expecting("a text, a number, a mapping, a list or null")
]
Source = Literal["e1", "e2", "e3", "lb"]


class Entry(Model):
    """What artefacts and statements share."""

    id: Text
    source: Source
    kind: str
    place: Text
    says: Text
    published: Data

    @model_validator(mode="after")
    def _id_of_its_source(self) -> Entry:
        if not self.id.startswith(f"{self.source}."):
            raise flaw(f"source is {self.source!r}; what the id starts with was expected; correct one of them")
        return self


class ArtefactEntry(Entry):
    """A table, figure, equation or method."""

    kind: Literal["table", "figure", "equation", "method"]


class StatementEntry(Entry):
    """A checkable statement; ``artefact`` shows it, ``companions`` too, and ``judge`` says how it is judged."""

    kind: Literal["value", "order", "equivalence", "ratio", "trend", "bound", "law", "definition"]
    artefact: Text | None
    judge: Judge = optional()
    companions: Texts = optional()


class Identified(Model):
    """A file of lists whose entries have ids, unique in the file."""

    lists: ClassVar[tuple[str, ...]]

    @model_validator(mode="after")
    def _unique_ids(self) -> Identified:
        seen = set()
        for entry in (entry for name in self.lists for entry in getattr(self, name)):
            if entry.id in seen:
                raise flaw(f"the id {entry.id!r} stands more than once; unique ids were expected; rename one")
            seen.add(entry.id)
        return self


class PublishedFile(Identified):
    """``data/published.yaml``."""

    lists = ("artefacts", "statements")
    artefacts: Annotated[list[ArtefactEntry], Field(min_length=1)]
    statements: Annotated[list[StatementEntry], Field(min_length=1)]

    @model_validator(mode="after")
    def _shown_by_what_there_is(self) -> PublishedFile:
        known = {artefact.id for artefact in self.artefacts}
        for entry in self.statements:
            shown = [entry.artefact, *(entry.companions or [])]
            strange = [name for name in shown if name is not None and name not in known and ".extra-" not in name]
            if strange:
                raise flaw(
                    f"{entry.id} is shown by {strange[0]!r}; the id of an artefact, or a companion of ours "
                    "(<source>.extra-...) was expected; correct it"
                )
            if len(shown) > 1 and (None in shown or len(set(shown)) < len(shown)):
                raise flaw(
                    f"{entry.id} has the companions {shown[1:]!r}; ids beside that of 'artefact', each once, were "
                    "expected; correct them"
                )
        return self


class ChoiceEntry(Model):
    """A place where a source is unclear."""

    id: Text
    source: Source
    unclear: Text
    chosen: Text
    why: Text
    other_choice: Text


class LedgerFile(Identified):
    """``data/ledger.yaml``."""

    lists = ("choices",)
    choices: Annotated[list[ChoiceEntry], Field(min_length=1)]
