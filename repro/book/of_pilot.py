"""What stands behind statements, figures and tables of the pilot: sizes and devices of its runs, and their place."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from repro.registry import labels
from repro.registry.study import Pilot

_SIZES = {
    "train_images": "training images",
    "test_images": "test images",
    "image_size": "pixels",
    "width": "base width",
    "epochs": "epochs",
}
_TRAINED = ("train", "payloads")
_MOST = 3
"""Values that are listed; of more, the first and the last are."""


@dataclass(frozen=True)
class Behind:
    """Sizes and devices of the pilot's runs in words, and commands that show them in the repository's history."""

    sizes: str
    commands: list[str]


def behind(made: Mapping[str, Mapping[str, Any]], pilot: Pilot, runs: Collection[str]) -> Behind | None:
    """What is known of ``runs``; None where nothing is.

    Args:
        made: artefact id -> content of the pilot's JSON beside it; each has some of the runs.
        pilot: its commit and profile.
        runs: ids of runs.
    """
    found = {run["run"]: (run, content) for content in made.values() for run in content["runs"] if run["run"] in runs}
    if not found:
        return None
    devices = {
        content["environments"][seed["environment"]]["device"]
        for run, content in found.values()
        for seed in run["seeds"]
    }
    every = [run["parameters"] for run, _ in found.values()]
    trained = [each for each in every if each["kind"] in _TRAINED]
    names = _SIZES if trained else ("train_images", "image_size", "width")
    told = [f"{_listed(each[name] for each in trained or every)} {_SIZES[name]}" for name in names]
    first = next(iter(found.values()))[0]["seeds"][0]["record"]
    paths = (first, f"pipelines/{pilot.profile}/params.yaml", f"figures/{pilot.profile}/verdicts.json")
    return Behind(
        f"profile {pilot.profile}, {', '.join(told)}; device {', '.join(sorted(devices))}",
        [f"git show {pilot.commit}:{path}" for path in paths],
    )


def _listed(values: Iterable[float]) -> str:
    """Numbers from small to large.

    >>> _listed([4, 2, 4]), _listed([1, 2, 3, 4, 5])
    ('2 or 4', '1 to 5')
    """
    said = [labels.number(value, 0 if value == int(value) else 2) for value in sorted(set(values))]
    return " or ".join(said) if len(said) <= _MOST else f"{said[0]} to {said[-1]}"
