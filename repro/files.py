"""Files of the package: JSON of stable bytes, YAML read plainly, atomic writes."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

from repro import plain_yaml
from repro.errors import ReproError

_COMPACT = json.JSONEncoder(sort_keys=True, allow_nan=False, ensure_ascii=False).encode
_PLAIN = frozenset({str, int, float, bool, type(None)})


def canonical_json(value: object) -> str:
    """Serialise ``value`` with sorted keys and one trailing newline; NaN and infinity are refused (ValueError).

    The same value always gives the same bytes, so that a hash of the text identifies the value.
    Lists of plain numbers stay on one line, to keep records readable and diffs small.
    """
    return _rendered(value, "") + "\n"


def _rendered(item: Any, indent: str) -> str:
    inner = indent + " "
    if type(item) in _PLAIN:
        return _COMPACT(item)
    if isinstance(item, Mapping) and item:
        parts = [f"{inner}{json.dumps(str(k))}: {_rendered(item[k], inner)}" for k in sorted(item)]
        return "{\n" + ",\n".join(parts) + "\n" + indent + "}"
    nested = isinstance(item, list) and not _PLAIN.issuperset(map(type, item))  # quick where a series is long
    if nested and any(isinstance(x, (Mapping, list)) for x in item):
        return "[\n" + ",\n".join(inner + _COMPACT(x) for x in item) + "\n" + indent + "]"
    return _COMPACT(item)


def sha256(value: object) -> str:
    """Hex SHA-256 of the canonical JSON of ``value``."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def rounded(value: float) -> float:
    """``value`` to six significant digits, as series are stored.

    >>> rounded(2.30258509299), rounded(1234567.0)
    (2.30259, 1234570.0)
    """
    return float(f"{value:.6g}")


def root_around(folder: Path) -> Path:
    """The root of the checkout that ``folder`` lies in.

    Raises:
        ReproError: it lies in none.
    """
    for found in (folder, *folder.parents):
        if (found / "params.yaml").is_file() and (found / "pipelines").is_dir():
            return found
    raise ReproError(
        f"{folder}: not in a checkout of this project, which has params.yaml and pipelines/ at its root; run the "
        "command inside one"
    )


def read_text(path: Path, otherwise: str = "") -> str:
    """Text of a file in UTF-8.

    Args:
        path: the file.
        otherwise: what to do where there is no such file; empty: restore it from git.

    Raises:
        ReproError: there is no such file, it is a folder, it may not be read, or it is not text.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        remedy = otherwise or f"it is part of the repository: `git checkout -- {path}`"
        raise ReproError(f"{path}: no such file; {remedy}") from error
    except UnicodeDecodeError as error:
        raise ReproError(f"{path}: not text in UTF-8 ({error.reason}); mend the file and run again") from error
    except OSError as error:
        raise ReproError(f"{path}: cannot be read ({error.strerror}); a readable file was expected") from error


def read_json(path: Path) -> Any:
    """Content of a JSON file that a command of this package wrote.

    Raises:
        ReproError: the file is missing or truncated, is not JSON, or holds a number that no 64 bits hold.
    """
    remedy = f"restore it from git (`git checkout -- {path}`) or delete it and run the command again"
    try:
        return json.loads(
            read_text(path, remedy), parse_int=_whole, parse_float=_finite, parse_constant=_finite,
        )  # fmt: skip
    except (ValueError, RecursionError) as error:
        raise ReproError(f"{path}: truncated or not JSON; what the package wrote was expected; {remedy}") from error


def _whole(text: str) -> int:
    if len(text) > plain_yaml.MOST_DIGITS + 2:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text} is not finite")
    return value


def write_atomic(path: Path, content: str | bytes | Callable[[IO[bytes]], object]) -> None:
    """Write ``content`` to ``path`` so that a crash or a full disk leaves the old file or none.

    A large content can be a function that writes it, in parts, to the open file that it is given.

    Raises:
        ReproError: the disk is full or the folder is not writable; nothing half-written stays behind.
    """
    import tempfile  # whose import takes a while

    path = Path(path)
    raw = content.encode() if isinstance(content, str) else content
    temporary = None
    size = f"{len(raw)} bytes of free space" if isinstance(raw, bytes) else "free space"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        with os.fdopen(descriptor, "wb") as file:
            if callable(raw):
                raw(file)
            else:
                file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise ReproError(
            f"{path}: could not be written ({error.strerror or error}); {size} in a "
            "writable folder were expected; free some space or fix the permissions, then run the command again"
        ) from error


def read_yaml(path: Path) -> dict[str, Any]:
    """Content of a YAML file whose top level is a mapping; the caller's own, to change at will.

    Raises:
        ReproError: the file is missing, is not YAML (with line and column), holds something that would not be read as
            it looks (``repro.plain_yaml``), or something else than a mapping.
    """
    return copy.deepcopy(parsed_yaml(read_text(path), path))


@lru_cache(maxsize=32)
def parsed_yaml(text: str, path: Path) -> dict[str, Any]:
    """As ``read_yaml``, of the text of ``path``; parsed once per content and shared: not to be changed."""
    try:
        content = plain_yaml.parse(text)
    except plain_yaml.Flaw as flaw:
        raise ReproError(f"{path}{flaw}") from flaw
    if not isinstance(content, dict):
        raise ReproError(f"{path}: the top level is {kind_of(content)}; a mapping (key: value) was expected")
    return content


def kind_of(value: object) -> str:
    """A value read from YAML or JSON in words, for messages; a long one is cut.

    >>> kind_of("wide"), kind_of(None), kind_of(True)
    ("text ('wide')", 'empty', 'true/false (True)')
    """
    names = {dict: "a mapping", list: "a list", str: "text", bool: "true/false"}
    shown = repr(value)
    shown = shown if len(shown) <= 80 else f"{shown[:76]} ..."
    return "empty" if value is None else f"{names.get(type(value), 'a number')} ({shown})"
