"""Files of the package: JSON of stable bytes, YAML, atomic writes."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import yaml

from repro.errors import ReproError


def canonical_json(value: object) -> str:
    """Serialise ``value`` with sorted keys and one trailing newline; NaN and infinity are refused (ValueError).

    The same value always gives the same bytes, so that a hash of the text identifies the value.
    Lists of plain numbers stay on one line, to keep records readable and diffs small.
    """

    def render(item: Any, indent: str) -> str:
        if isinstance(item, Mapping) and item:
            inner = indent + " "
            parts = [f"{inner}{json.dumps(str(k))}: {render(item[k], inner)}" for k in sorted(item)]
            return "{\n" + ",\n".join(parts) + "\n" + indent + "}"
        if isinstance(item, list) and any(isinstance(x, (Mapping, list)) for x in item):
            inner = indent + " "
            return "[\n" + ",\n".join(inner + compact(x) for x in item) + "\n" + indent + "]"
        return compact(item)

    def compact(item: Any) -> str:
        return json.dumps(item, sort_keys=True, allow_nan=False, ensure_ascii=False)

    return render(value, "") + "\n"


def sha256(value: object) -> str:
    """Hex SHA-256 of the canonical JSON of ``value``."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def rounded(value: float) -> float:
    """``value`` to six significant digits, as series are stored.

    >>> rounded(2.30258509299), rounded(1234567.0)
    (2.30259, 1234570.0)
    """
    return float(f"{value:.6g}")


def read_json(path: Path) -> Any:
    """Content of a JSON file that a command of this package wrote.

    Raises:
        ReproError: the file is truncated or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ReproError(
            f"{path}: truncated or not JSON; what the package wrote was expected; restore it from git "
            f"(`git checkout -- {path}`) or delete it and run the command again"
        ) from error


def write_atomic(path: Path, content: str | bytes | Callable[[IO[bytes]], object]) -> None:
    """Write ``content`` to ``path`` so that a crash or a full disk leaves the old file or none.

    A large content can be a function that writes it, in parts, to the open file that it is given.

    Raises:
        ReproError: the disk is full or the folder is not writable; nothing half-written stays behind.
    """
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
    """Read a YAML file whose top level is a mapping.

    Raises:
        ReproError: the file is missing, is not YAML (with line and column), or holds something else than a mapping.
    """
    try:
        content = _parsed(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ReproError(f"{path}: no such file; it is part of the repository: `git checkout -- {path}`") from error
    except UnicodeDecodeError as error:
        raise ReproError(f"{path}: not text in UTF-8 ({error.reason}); mend the file and run again") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "cannot be parsed"
        raise ReproError(f"{path}: not valid YAML{where}: {problem}; mend the file and run again") from error
    if not isinstance(content, dict):
        raise ReproError(f"{path}: the top level is {kind_of(content)}; a mapping (key: value) was expected")
    return copy.deepcopy(content)


@lru_cache(maxsize=32)
def _parsed(text: str) -> Any:
    """Parsed once per content: most of what a command reads, it reads many times."""
    return yaml.safe_load(text)


def kind_of(value: object) -> str:
    """A value read from YAML or JSON in words, for messages."""
    names = {dict: "a mapping", list: "a list", str: "text", bool: "true/false", type(None): "empty"}
    return f"{names.get(type(value), 'a number')} ({value!r})" if value is not None else "empty"
