"""What a small site is made from, for tests of its pages: statements of every kind, synthetic records; reads HTML."""

from __future__ import annotations

from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import tree
import yaml
from synthetic import e1_grid_records, e1_records

from repro import book, report
from repro.book import Inputs
from repro.registry.study import Pilot
from repro.results.records import path_of
from repro.verdicts.arithmetic import Line
from repro.verdicts.judge import Artefact, Choice, Published, Statement

VOID = {"meta", "img", "br", "link", "input"}


def verdict(name: str, **changes: Any) -> dict[str, Any]:
    return {
        "id": name,
        "source": "e1",
        "kind": "order",
        "says": "A beats B",
        "place": "figure 1",
        "published": None,
        "ours": "2.1 points",
        "interval": [1.25, 3.5],
        "unit": "points",
        "n": 3,
        "verdict": "holds at study scale",
        "reason": "the interval excludes zero",
        "runs": ["e1-central", "e1-federated"],
        "artefact": "e1.fig1",
        "profile": "study",
        "why": "2 points <is> the margin",
        "parts": [],
    } | changes


NUMBERS = {"name": None, "under": None, "estimate": None, "interval": None, "unit": None, "looks": [], "p": None}


PARTS = [
    NUMBERS | {
        "ours": "+2.1 points [+1.2, +3.5]", "outcome": "holds", "rule": "equivalence", "n": 8, "reason": "so",
        "name": "A <beats> B", "under": {"setting": "C", "is": "large"}, "estimate": 2.1, "interval": [1.2, 3.5],
        "unit": "points", "p": 0.0123, "q": 0.04, "post_hoc": True,
        "looks": [
            {"n": 5, "estimate": 2.5, "interval": [-0.5, 5.5]}, {"n": 8, "estimate": 2.1, "interval": [1.2, 3.5]},
        ],
    },
    NUMBERS | {
        "ours": "+0.1 points [−1.2, +1.5]", "outcome": "open", "rule": "equivalence", "n": 3, "reason": "wide",
        "q": None, "beside": True,
    },
]  # fmt: skip


VERDICTS = [
    verdict("e1.c1", kind="equivalence", verdict="open", parts=PARTS),
    verdict(
        "e1.c2",
        published={"<b>order</b>": ["central", "large & batch"]},
        says='5 < 6 & "quotes" | pipe_and*star',
    ),
    verdict("e1.c3", verdict="fails at study scale", artefact="e1.table2"),
    verdict("e1.c4", kind="law", runs=["e1-union-law"], artefact=None, interval=None, n=1),
    verdict("e1.c6", runs=sorted({r.run for r in e1_grid_records()}), artefact=None),
    verdict("e1.c7", verdict="not run", ours=None, interval=None, n=0, artefact=None, runs=["e1-absent"]),
]


PUBLISHED = Published(
    [Artefact("e1.fig1", "e1", "figure", "figure 1", "test accuracy <against> epochs.", None)],
    [
        *(Statement(v["id"], "e1", v["kind"], v["place"], v["says"], v["published"], v["artefact"]) for v in VERDICTS),
        Statement("e2.c1", "e2", "value", "text", "F2I sends 4x less", "4x", None),
        Statement("lb.c1", "lb", "order", "table 1", "BSP beats FA", None, None),
    ],
)


LEDGER = [
    Choice("e1.batches", "e1", "3072 batches?", "3072 images", "arithmetic", "nothing <else>"),
    Choice("e2.stem", "e2", "which stem", "CIFAR", "62 % of weights", "a row"),
]


NOTEBOOK = "<h1>Post 1</h1><h2 id='x'>no</h2><h2 id=\"Figure-1\">Figure 1</h2><p>shows e1.fig1 and e1.c2</p>"


def inputs(absent: frozenset[str] = frozenset(), **changes: Any) -> Inputs:
    records = [*e1_records(), *e1_grid_records()]
    provenance = {
        path_of(r).as_posix(): {
            "seconds": 30.0 + r.seed, "machine": {"device": "abacus", "torch": "2"}, "precision": "bf16",
            "commit": "c0ffee", "code": "f00d", "finished": "2001-02-03T04:05:06Z",
        }
        for r in e1_records()
    }  # fmt: skip
    given: dict[str, Any] = {
        "profile": "study",
        "published": PUBLISHED,
        "verdicts": VERDICTS,
        "ledger": LEDGER,
        "others": {"paper": [verdict("e1.c2", verdict="reproduced")]},
        "records": records,
        "provenance": provenance,
        "tables": {name: report.table(name, records) for name in ("e1.table1", "e1.table2")},
        "present": frozenset(set(report.ARTEFACTS) - absent),
        "notebooks": {"e1": NOTEBOOK},
        "manifests": {
            "toys": {
                "title": "Toys", "reduced": None, "train_per_class": [2, 2], "test_per_class": [1, 1],
                "classes": ["a", "b"], "citation": "A. Toy", "licence": None, "sha256": "0" * 64,
                "arrays": {"train_images": {"shape": [4, 2, 2, 3], "dtype": "uint8", "sha256": "1" * 64}},
            }
        },
        "arithmetic": [Line("e1.sum", "e1", "text", "One & one?", "1 + 1", "2", "2", "agrees", "a <note>")],
        "citation": yaml.safe_load((tree.REPOSITORY / "CITATION.cff").read_text()),
    }  # fmt: skip
    return Inputs(**given | changes)


PILOT = Pilot(commit="c0ffee" * 6 + "c0ff", profile="laptop", seeds=3)


OLD = {
    "environments": {"here": {"device": "abacus"}},
    "runs": [
        {
            "run": run,
            "parameters": {
                "kind": "train", "train_images": images, "test_images": 500, "image_size": 16, "width": 8, "epochs": 2.5
            },
            "seeds": [{"environment": "here", "record": f"data/records/laptop/e1/{run}.s1.json"}],
        }
        for run, images in (("e1-central", 4000), ("e1-federated", 12000), ("e1-large-batch", 777))
    ],
}  # fmt: skip
"""What the JSON beside a figure of the pilot says."""


def with_pilot() -> dict[str, str]:
    """e1.c2 and e1.fig1 are the pilot's, as is the notebook of e1."""
    old = verdict("e1.c2", verdict="holds (pilot)", pilot=True, commit=PILOT.commit, profile="laptop")
    given = [old if v["id"] == "e1.c2" else v for v in VERDICTS]
    return book.site(
        inputs(verdicts=given, pilot=PILOT, of_pilot=frozenset(["e1.fig1", "e1"]), made_by_pilot={"e1.fig1": OLD})
    )


TALLY = "5 of 8 statements judged: 2 results hold, 1 fails and 1 is open; 1 law holds; 3 were not run."


class Reader(HTMLParser):
    """Collects tags with attributes and text, and insists that every tag is closed in order."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def all(self, tag: str) -> Iterator[dict[str, str | None]]:
        return (attributes for name, attributes in self.tags if name == tag)

    @property
    def links(self) -> list[str]:
        found = [a["href"] for a in self.all("a")] + [image["src"] for image in self.all("img")]
        found += [link["href"] for link in self.all("link")] + [script["src"] for script in self.all("script")]
        return [link for link in found if link is not None and link != "data:,"]

    @property
    def ids(self) -> list[str]:
        return [str(attributes["id"]) for _, attributes in self.tags if "id" in attributes]
