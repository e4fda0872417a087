"""Words that a newcomer may not know, linked to the page of terms where they first occur on a page."""

from __future__ import annotations

import re
from collections.abc import Callable

from markupsafe import Markup, escape

#: Anchor on the page of terms -> words that lead there.
TERMS = {
    "bsp": r"BSP|bulk-synchronous",
    "large-batch": r"large batch",
    "fedavg": r"federated averaging|federated learning|\bFA\b",
    "iid": r"non-IID|label-skewed|\bIID\b",
    "normalisation": r"BatchNorm|GroupNorm|LayerNorm|InstanceNorm|Fixup",
    "schedule": r"plateau|cosine|warm-up",
    "dgc": r"DGC|deep gradient compression",
    "f2i": r"F2I|\bGQ\b|int8|quantis\w+",
    "compression-rate": r"compression rate",
    "top-1": r"top-1|top-5",
    "points": r"points",
    "interval": r"95 % interval|interval",
    "seed": r"seeds?\b",
    "round": r"communication rounds?",
    "epoch": r"epochs?\b",
    "chance": r"chance",
    "target": r"the target",
    "arm": r"\barms?\b",
    "baseline": r"baseline",
    "grid": r"learning-rate grid|\bgrid\b",
    "block": r"\d+ blocks|blocks of",
    "step-up": r"step-up factor|factor of \d+|\bX = \d+",
    "full-scale": r"full scale",
    "codec": r"codec",
    "eigenvalue": r"eigenvalue",
    "centralised": r"centralised",
}
_ANY = re.compile("|".join(f"(?P<t{i}>{words})" for i, words in enumerate(TERMS.values())), re.IGNORECASE)


def linker() -> Callable[[object], Markup]:
    """A filter for one page: text with each term linked where the page has it first."""
    seen: set[str] = set()
    anchors = list(TERMS)

    def glossed(text: object) -> Markup:
        said, made, at = str(text), [], 0
        for found in _ANY.finditer(said):
            anchor = anchors[int(str(found.lastgroup)[1:])]
            if anchor in seen:
                continue
            seen.add(anchor)
            made += [escape(said[at : found.start()]), Markup(f'<a class="term" href="terms.html#{anchor}">')]
            made += [escape(found[0]), Markup("</a>")]
            at = found.end()
        return Markup("").join([*made, escape(said[at:])])

    return glossed
