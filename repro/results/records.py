"""One run on disk: a small JSON body that says what was run and what came out, and nothing that varies by machine load.

A record's *body* (``data/records``) holds the resolved spec, the seed, the hash of the data, the fingerprint and the
measured rows. What belongs to one execution (times, device, versions, commit) is its *provenance*
(``data/provenance``), which no figure reads. Both are written atomically: a reader sees the old file or the new one,
never a part.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from repro.errors import ReproError
from repro.files import canonical_json, read_json, read_text, sha256, write_atomic
from repro.validation import FromZero, Model, Text, fitting, optional

SCHEMA = 1
_NAME = re.compile(r"^(?P<run>[A-Za-z0-9_-]+)\.s(?P<seed>\d+)\.json$")


LARGEST_CLASS = {"caltech101": 160 / 1695}
"""Share of the largest class among all test images, of data sets whose classes differ in size; a test counts it."""


@dataclass(frozen=True)
class Record:
    """The body of one run.

    Attributes:
        run, source, group, kind, profile, seed: identity; ``group`` is ``artefact`` or ``control``.
        spec: every resolved setting of the run (``repro.registry.specs.Spec`` as a plain mapping).
        data: name and SHA-256 of the data set, and in what way it is reduced, if it is.
        fingerprint: hash over spec, seed, data and the numerics versions of the modules that the run used.
        status: ``completed`` or ``diverged`` (the loss became non-finite, or larger than the spec's ``diverges_above``;
            rows stop early, and there may be none).
        reason: why a run diverged, else None.
        rows: one mapping per evaluation; accuracies are fractions in 0..1, bytes are cumulative over all workers.
        series: per-round values of quantities logged each round (``train_loss``, and ``gradient_norm`` if tracked), to
            six significant digits.
        law: the numbers of a law that was executed (kind ``law``), else None.
        machine: of a measurement (kind ``measure``): device, instructions, torch and threads, without which its times
            and bytes mean nothing; else None, and not stored.
        rules: of a run of the profile ``study``, the rules that stood when it ran, as told by
            ``repro.registry.published.rules_of``: statement -> hash of its rule, and ``code`` -> hash of the code that
            judges; else None, and not stored.
    """

    run: str
    source: str
    group: str
    kind: str
    profile: str
    seed: int
    spec: dict[str, Any]
    data: dict[str, Any]
    fingerprint: str
    status: str
    reason: str | None = None
    rows: list[dict[str, Any]] = field(default_factory=list)
    series: dict[str, list[float]] = field(default_factory=dict)
    law: dict[str, Any] | None = None
    machine: dict[str, Any] | None = None
    rules: dict[str, str] | None = None

    def body(self) -> dict[str, Any]:
        """The mapping that is stored, checksum included."""
        content = {"schema": SCHEMA} | {name: getattr(self, name) for name in self.__dataclass_fields__}
        for name in ("machine", "rules"):
            if content[name] is None:
                del content[name]
        return content | {"checksum": sha256(content)}

    @property
    def chance(self) -> float:
        """Top-1 accuracy of guessing, as a fraction: of the largest class, where one stands out."""
        return max(1.0 / int(self.data["classes"]), LARGEST_CLASS.get(self.data["name"], 0.0))


# What files may hold -------------------------------------------------------------------------------------------


class Body(Model):
    """The fields of a record as its file holds them."""

    run: Text
    source: Text
    group: Literal["artefact", "control"]
    kind: Literal["train", "law", "payloads", "measure", "gradients", "teacher"]
    profile: Text
    seed: Annotated[int, Field(ge=0)]
    spec: dict[str, Any]
    data: dict[str, Any]
    fingerprint: Text
    status: Literal["completed", "diverged"]
    reason: str | None
    rows: list[dict[str, Any]]
    series: dict[str, list[float]]
    law: dict[str, Any] | None
    machine: dict[str, Any] = optional()
    rules: dict[str, str] = optional()


class Row(Model):
    """A mapping that may hold further keys."""

    model_config = ConfigDict(extra="allow")
    closed = False


_AboveZero = Annotated[float, Field(gt=0)]


class Evaluation(Row):
    """A row of a training."""

    epoch: float
    round: int
    lr: float
    train_loss: float
    train_top1: float
    test_loss: float
    test_top1: float
    test_top5: float
    bytes_up: float
    bytes_down: float


class Message(Row):
    """A row of messages."""

    codec: Text
    what: Text
    bytes: _AboveZero
    dense_bytes: _AboveZero


class Measured(Row):
    """A row of a measurement, or of a look at gradients."""

    batch: _AboveZero


class Predicted(Row):
    """A row of what a teacher predicts."""

    teacher: Text
    held_out: Text
    large: _AboveZero
    r2: Annotated[float, Field(le=1)]


_ROWS: dict[str, Any] = {
    "train": list[Evaluation], "payloads": list[Message], "measure": list[Measured], "gradients": list[Measured],
    "teacher": list[Predicted],
}  # fmt: skip


class Costs(Row):
    """What a provenance file says of time, in seconds: of one core, and of the wall clock."""

    cpu_seconds: FromZero = optional()
    seconds: FromZero = optional()


# Reading and writing -------------------------------------------------------------------------------------------


def folder(profile: str, source: str, group: str = "artefact") -> Path:
    """Folder of the records of one source, relative to the repository's root.

    Controls have a folder of their own, so that the default pipeline's outputs do not depend on them.
    """
    return Path("data/records", profile, source if group == "artefact" else f"{source}_controls")


def path_of(record: Record, root: Path = Path()) -> Path:
    """Where the body of ``record`` belongs."""
    return root / folder(record.profile, record.source, record.group) / f"{record.run}.s{record.seed}.json"


def provenance_path(record_path: Path) -> Path:
    """Where the provenance of the record at ``record_path`` belongs."""
    parts = list(record_path.parts)
    parts[len(parts) - 1 - parts[::-1].index("records")] = "provenance"
    return Path(*parts)


def write(record: Record, root: Path = Path()) -> Path:
    """Write the body of ``record`` atomically and return its path.

    Raises:
        ReproError: a value is NaN or infinite, or the file cannot be written.
    """
    path = path_of(record, root)
    try:
        text = canonical_json(record.body())
    except ValueError as error:
        raise ReproError(
            f"{path}: a value is NaN or infinite; finite numbers were expected; this is a bug in the run"
        ) from error
    write_atomic(path, text)
    return path


def read(path: Path) -> Record:
    """Read and verify one record.

    Raises:
        ReproError: not JSON (truncated), of another schema, edited (checksum), stored under a wrong name, or with a
            value that no run can have (an accuracy outside [0, 1], epochs or bytes that fall).
    """
    remedy = f"restore it from git (`git checkout -- {path}`) or delete it and run the sweep again"
    text = read_text(path, "run `python -m repro list` for the runs that exist")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ReproError(f"{path}: truncated or not JSON; a complete record was expected; {remedy}") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        found = content.get("schema") if isinstance(content, dict) else type(content).__name__
        raise ReproError(f"{path}: schema {found}; a record of schema {SCHEMA} was expected; {remedy}")
    content.pop("checksum", None)
    try:
        rest = canonical_json(content)  # the checksum is of this, and stands before it: no key sorts first
    except (ValueError, RecursionError):  # NaN or infinity, or levels without end
        rest = ""
    if text != f'{{\n "checksum": "{hashlib.sha256(rest.encode()).hexdigest()}",\n{rest[2:]}':
        raise ReproError(f"{path}: edited or damaged; its checksum does not match its content; {remedy}")
    content.pop("schema")
    try:
        fitting(Body, content, path)
        fitting(_ROWS.get(content["kind"], list[Row]), content["rows"], path, "rows")
    except ReproError as error:
        raise ReproError(f"{str(error).removesuffix('; correct it')}; {remedy}") from error
    record = Record(**content)
    if path.name != f"{record.run}.s{record.seed}.json":
        raise ReproError(f"{path}: holds {record.run} seed {record.seed}; the file was renamed or copied; {remedy}")
    if impossible := _impossible(record):
        raise ReproError(f"{path}: {impossible}; {remedy}")
    return record


_CUMULATIVE = ("epoch", "round", "bytes_up", "bytes_down")


def _impossible(record: Record) -> str | None:
    """What no run can have recorded, and what was expected; None where every value can be.

    Accuracies lie in [0, 1]; epochs, rounds and bytes, which are cumulative, never fall. The canonical form holds that
    numbers are finite.
    """
    before: dict[str, float] = {}
    for index, row in enumerate(record.rows, start=1):
        for name, value in row.items():
            if "top1" in name or "top5" in name:
                if wrong := [x for x in _numbers(value) if not _is_number(x) or not 0 <= x <= 1]:
                    return f"row {index}, {name}: {wrong[0]!r}; a fraction from 0 to 1 was expected"
            elif record.kind == "train" and name in _CUMULATIVE:
                least = before.get(name, 0.0)
                if not _is_number(value) or value < least:
                    return f"row {index}, {name}: {value!r}; a number from {least:g} up was expected"
                before[name] = value
    return None


def _numbers(value: Any) -> Iterator[Any]:
    """The values in nested lists; None stands for what does not exist, such as a class without images."""
    if isinstance(value, list):
        for item in value:
            yield from _numbers(item)
    elif value is not None:
        yield value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def result(record: Record) -> str:
    """The number that a record ends with, in words, as a repetition is compared by.

    A training: its last accuracy; messages: their length in all; a measurement: the median step at its largest batch; a
    law: its numbers; gradients and teachers: how many rows there are.
    """
    if record.kind == "law":
        numbers = {name: value for name, value in (record.law or {}).items() if _is_number(value)}
        return ", ".join(f"{name} {numbers[name]:.3g}" for name in sorted(numbers))
    if not record.rows:
        return "diverged before its first evaluation" if record.status == "diverged" else "no rows"
    last = record.rows[-1]
    if record.kind == "payloads":
        return f"{sum(row['bytes'] for row in record.rows)} bytes in {len(record.rows)} messages"
    if record.kind == "measure":
        return f"{1000 * last['step'][1]:.4g} ms a step at batch {last['batch']}" if last.get("step") else "no time"
    if record.kind in ("gradients", "teacher"):
        return f"{len(record.rows)} rows"
    diverged = ", then diverged" if record.status == "diverged" else ""
    return f"top-1 {100 * last['test_top1']:.2f} % at epoch {last['epoch']:g}{diverged}"


def paths(profile: str, source: str, root: Path = Path()) -> list[Path]:
    """Record files of one source (``e1``) or of its controls (``e1_controls``), sorted by name."""
    place = root / "data/records" / profile / source
    return sorted(p for p in place.glob("*.json") if _NAME.match(p.name))


def load_all(profile: str, source: str, root: Path = Path()) -> list[Record]:
    """All verified records of one source or of its controls; an empty list where nothing was run.

    Raises:
        ReproError: a record is truncated or was edited.
    """
    return [read(path) for path in paths(profile, source, root)]


def every(root: Path = Path()) -> Iterator[Path]:
    """Paths of all record files of all profiles."""
    return (p for p in sorted((root / "data/records").glob("*/*/*.json")) if _NAME.match(p.name))


def differences(ours: Record, other: Record) -> list[str]:
    """Names of the fields in which two records differ; empty when the bodies are bit-identical.

    ``rules`` is left aside: a rule that changed later changes no number.
    """
    a, b = ours.body(), other.body()
    return [name for name in (a | b) if name not in ("checksum", "rules") and a.get(name) != b.get(name)]


def core_seconds(provenance: Path) -> float | None:
    """Seconds of one core that a run took, of the wall clock where no others were counted; None if no file tells.

    Raises:
        ReproError: the file is damaged.
    """
    if not provenance.exists():
        return None
    remedy = f"restore it from git (`git checkout -- {provenance}`) or delete it"
    try:
        known = fitting(Costs, read_json(provenance), provenance)
    except ReproError as error:
        raise ReproError(f"{str(error).removesuffix('; correct it')}; {remedy}") from error
    found = known.seconds if known.cpu_seconds is None else known.cpu_seconds
    return None if found is None else float(found)
