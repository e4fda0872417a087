"""Where a record comes from: the commit, the code, and the memory of its process."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path


def peak_memory() -> int | None:
    """Most bytes that this process held so far, or None where the system does not say (Windows)."""
    try:
        import resource
    except ImportError:
        return None
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(held if sys.platform == "darwin" else held * 1024)


def _code() -> dict[str, str]:
    """The commit that was checked out, and a hash of the package's code as it was when this process started.

    The hash identifies the code also where files differ from the commit, or where there is no git.
    """
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")

    def git(*arguments: str) -> str:
        command = ("git", *arguments)
        return subprocess.run(command, cwd=package.parent, capture_output=True, text=True, check=True).stdout.strip()

    try:
        head = git("rev-parse", "HEAD")
        changed = git("status", "--porcelain", "--", "repro", "pipelines", "requirements")
    except (OSError, subprocess.CalledProcessError):
        head, changed = "unknown", ""
    return {"commit": head + ("+changes" if changed else ""), "code": digest.hexdigest()}


CODE = _code()
