"""Why statements are not decided: the kinds of reason, in plain words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from repro.book.theme import entered

#: Words in the reason of an open part -> the kind of reason. The first that is found counts.
_KINDS = (
    (("chance",), "A run learned too little: its accuracy is too close to guessing to be compared"),
    (("still rising", "not at rest"), "Training had not come to rest: what is compared was still moving"),
    (("at least",), "Too few repetitions so far"),
    (
        ("cannot be told", "without reaching", "without a cut", "edge of the grid", "leads over the seeds"),
        "Something that the comparison needs did not happen, such as reaching a target accuracy",
    ),
    (
        ("includes", "partly", "both sides", "undecided", "neither", "not corrected", "diverged"),
        "The interval reaches to both sides: the difference is too small to tell with these repetitions",
    ),
)
OTHER = "Another reason, given on its page"
NO_RUN = "This package has no run for it"
WAITING = "Its runs are planned and not all computed yet"
FULL_SCALE = "The published value belongs to full scale, and our runs are smaller"


def kind_of(word: str, parts: Iterable[Mapping[str, Any]]) -> str:
    """Why a verdict that decides nothing does so.

    Args:
        word: its class: open, not comparable or not run.
        parts: its parts as stored.
    """
    counted = [part for part in parts if not part.get("beside")]
    if word == "not run":
        return WAITING if counted else NO_RUN
    if word == "not comparable":
        return FULL_SCALE
    said = next((str(part["reason"]) for part in counted if entered(part) == "open"), "")
    return next((kind for words, kind in _KINDS if any(each in said for each in words)), OTHER)
