"""Trained runs of the paper, and what of them is said in words."""

from __future__ import annotations

from collections.abc import Sequence

from repro.registry.labels import number
from repro.report.rows import Row, origin
from repro.report.selection import Groups, completed, setting
from repro.results.measurements import TITLES, title
from repro.results.metrics import planned_rounds
from repro.results.records import Record

MODELS = ("resnet50", "vgg11", "alexnet")
BATCHES = {"resnet50": (32, 256, 512, 1024), "vgg11": (64, 256, 512, 1024), "alexnet": (32, 256, 512, 1024)}
FACTORS = (2, 4, 8, 16)
STEPPED = ("resnet50", "vgg11")
"""Networks whose gradients are stepped up."""
Case = tuple[str, str]
CASES: tuple[Case, ...] = (("resnet50", "t05"), ("vgg11", "t05"), ("vgg11", "t08"))
"""Network and threshold of figures 7 and 8, as run ids have them."""
LOW = "-low"
"""Ending of the runs at the second learning rate."""

OURS = "The paper has no such figure."
_COLUMNS = ("model", "local_steps", "momentum", "weight_decay", "buffers")


def batch_run(model: str, batch: int = 1024) -> str:
    """The run of a network at a batch."""
    return f"lb-batch-{model}-{batch}"


def small_run(model: str) -> str:
    """The run of a network at its smallest batch."""
    return batch_run(model, BATCHES[model][0])


def stepped_runs(model: str, threshold: str) -> tuple[str, ...]:
    """Runs of factors 1, 2, 4, 8 and 16."""
    return (batch_run(model), *(f"lb-step-{model}-{threshold}-x{factor}" for factor in FACTORS))


def lb_origin(artefact: str, record: Record, n: int) -> Row:
    """The columns with which the CSV rows of the paper's trained runs begin."""
    step_up = record.spec.get("step_up") or {}
    return origin(artefact, record, n, _COLUMNS) | {
        f"step_up_{name}": step_up.get(name) for name in ("factor", "threshold", "when", "share_of")
    }


def iterations(group: Sequence[Record]) -> int:
    """Iterations that a run was given."""
    return planned_rounds((completed(group) or group)[0])


def given(groups: Groups, models: Sequence[str], ending: str = "") -> str:
    """Iterations of the largest batch, in words; ``ending``: of the ids of its runs."""
    return ", ".join(f"{number(iterations(groups[batch_run(model) + ending]))} of {TITLES[model]}" for model in models)


def factor(group: Sequence[Record]) -> int:
    """The step-up factor of a run; 1 without a step-up."""
    step_up = setting(group, "step_up") if "step_up" in group[0].spec else None
    return 1 if step_up is None else int(step_up["factor"])


def titles(groups: Groups, models: Sequence[str]) -> list[str]:
    """Network and data of each panel."""
    return [title(groups[batch_run(model)][0]) for model in models]
