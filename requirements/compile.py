"""Writes the lock files of this folder and `environment.yml` (`make lock`).

Sources: `pyproject.toml` (direct dependencies), `torch.txt` (the one place that names the versions of torch and of
torchvision, which belongs to it) and the metadata of these two as installed. Both are pinned but never hash-locked,
because their CPU and CUDA builds differ under one version; the packages that they need are locked like all others.
"""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent
#: Lock files in the order in which they are installed; each is held to the pins of those before it.
LOCKS = ("build", "main", "test")
UV_OPTIONS = (
    "--universal",
    "--python-version=3.11",
    "--fork-strategy=fewest",  # one version of a package for every Python, wherever one exists
    "--generate-hashes",
    "--custom-compile-command=make lock",
    "--quiet",
)


def project_name(requirement: str) -> str:
    """Returns the normalised project name of one requirement line, as in PEP 503."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\s\[;=<>!~]", requirement.strip(), maxsplit=1)[0]).lower()


def torch_pins() -> dict[str, str]:
    """Returns the versions that `torch.txt` names, by project."""
    return dict(line.split("==") for line in (FOLDER / "torch.txt").read_text().split())


def torch_requirements() -> list[str]:
    """Returns what the pinned torch and torchvision require beyond each other and CUDA, from their metadata.

    Raises:
        SystemExit: another version than that of `torch.txt` is installed.
    """
    found = []
    for name, pinned in torch_pins().items():
        installed = importlib.metadata.version(name).partition("+")[0]
        if installed != pinned:
            sys.exit(f"make lock: {name} {installed} is installed, torch.txt names {pinned}: run make env first")
        found += [line for line in importlib.metadata.requires(name) or [] if "extra ==" not in line]
    apart = ("cuda", "nvidia", "triton", *torch_pins())
    return [line for line in found if not project_name(line).startswith(apart)]


def direct_requirements() -> dict[str, list[str]]:
    """Returns the requirement lines behind each lock file, torch and torchvision left out."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project = pyproject["project"]
    extras = project["optional-dependencies"]
    main = [line for line in project["dependencies"] + extras["pipeline"] if project_name(line) not in torch_pins()]
    return {
        "build": pyproject["build-system"]["requires"],
        "main": main + torch_requirements(),
        "test": extras["test"],
    }


def lock(name: str, requirements: list[str]) -> None:
    """Writes `<name>.lock`: every package with its version and the SHA-256 of its files, no addresses.

    Pins already in the file are kept where they still fit; delete the file to upgrade them.
    """
    earlier = [f"--constraints={other}.lock" for other in LOCKS[: LOCKS.index(name)]]
    subprocess.run(
        ["uv", "pip", "compile", *UV_OPTIONS, *earlier, f"--output-file={name}.lock", "-"],
        input="\n".join(requirements),
        text=True,
        cwd=FOLDER,
        check=True,
    )


def pins(name: str) -> list[str]:
    """Returns the `name==version` lines of `<name>.lock`, with their environment markers, without hashes."""
    lines = (FOLDER / f"{name}.lock").read_text().splitlines()
    return [line.removesuffix("\\").rstrip() for line in lines if re.match(r"[A-Za-z0-9]", line)]


def environment() -> str:
    """Returns the text of `environment.yml`: the pins of all lock files and of `torch.txt` for conda's pip."""
    found = {pin for name in LOCKS for pin in pins(name)} | {*(FOLDER / "torch.txt").read_text().split()}
    # A package that one lock pins everywhere and another on some platforms only needs one line.
    packages = sorted(pin for pin in found if pin.partition(" ;")[0] == pin or pin.partition(" ;")[0] not in found)
    return (
        "# Written by `make lock` from requirements/; tests/commands/test_packaging.py holds it there.\n"
        "name: repro\n"
        "channels: [conda-forge, nodefaults]\n"
        "dependencies:\n"
        "  - python >=3.11,<3.15\n"
        "  - pip\n"
        "  - git\n"
        "  - make\n"
        "  - pip:\n" + "".join(f"      - {package}\n" for package in packages) + "      - --editable .\n"
    )


if __name__ == "__main__":
    for name, requirements in direct_requirements().items():
        lock(name, requirements)
    (ROOT / "environment.yml").write_text(environment())
