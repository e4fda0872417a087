"""The learning rate of an arm is the best of its own grid, and how it was chosen is on record."""

from pathlib import Path

import pytest
import tree

from repro import files
from repro.errors import ReproError
from repro.registry import specs
from repro.running import tuning

LRS = (0.0125, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
SEEDS = (101, 102, 103)  # of e1 and e2


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tree.plant(tmp_path)


def fill(root: Path, top1, skip: tuple[str, int] | None = None, source: str = "e1") -> None:
    """Grids of the paper profile; ``top1(arm, lr, seed)`` is an accuracy, or None for a run that diverged."""
    for arm, made in specs.grids(source, "paper", root).items():
        for spec in made:
            for seed in SEEDS[:2] if source == "lb" else SEEDS:
                if (spec.run, seed) == skip:
                    continue
                value = top1(arm, spec.schedule["lr"], seed)
                lost = {"status": "diverged", "reason": "the loss is nan", "rows": []} if value is None else {}
                tree.record(spec, seed, root, top1=value or 0.0, **lost)


def peak(best: float):
    return lambda arm, lr, seed: 0.6 if lr == best else 0.4


def test_the_best_mean_over_seeds_wins_and_not_the_best_single_run(root: Path) -> None:
    def top1(arm: str, lr: float, seed: int) -> float:
        return {0.2: 0.5, 0.4: {101: 0.9, 102: 0.25, 103: 0.25}[seed]}.get(lr, 0.3)

    fill(root, top1)
    chosen = tuning.choose("e1", "paper", root)["central"]
    assert chosen["lr"] == 0.2
    assert chosen["mean_top1"]["0.2"] == pytest.approx(0.5)
    assert chosen["mean_top1"]["0.4"] == pytest.approx(1.4 / 3)
    assert list(chosen["mean_top1"]) == [f"{lr:g}" for lr in LRS]
    assert chosen["seeds"] == list(SEEDS)


@pytest.mark.parametrize("source", tree.ARMS)
def test_every_arm_is_chosen_from_its_own_grid(source: str, root: Path) -> None:
    best = {
        arm: made[k % len(made)].schedule["lr"]
        for k, (arm, made) in enumerate(specs.grids(source, "paper", root).items(), start=1)
    }
    assert len(set(best.values())) > 1
    fill(root, lambda arm, lr, seed: 0.6 if lr == best[arm] else 0.4, source=source)
    assert {arm: choice["lr"] for arm, choice in tuning.choose(source, "paper", root).items()} == best


def test_of_equal_rates_the_smaller_one_wins(root: Path) -> None:
    fill(root, lambda arm, lr, seed: 0.6 if lr in (0.1, 0.2, 0.8) else 0.4)
    assert tuning.choose("e1", "paper", root)["federated"]["lr"] == 0.1
    fill(root, lambda arm, lr, seed: 0.5)
    assert tuning.choose("e1", "paper", root)["federated"]["lr"] == 0.0125


def test_a_diverged_seed_counts_as_chance(root: Path) -> None:
    def top1(arm: str, lr: float, seed: int) -> float | None:
        if lr == 0.4:
            return None if seed == 102 else 0.7  # (0.7 + 0.1 + 0.7) / 3 = 0.5
        return 0.51 if lr == 0.2 else 0.2

    fill(root, top1)
    chosen = tuning.choose("e1", "paper", root)["central"]
    assert chosen["mean_top1"]["0.4"] == pytest.approx(0.5)
    assert chosen["lr"] == 0.2


def test_what_a_diverged_run_reached_before_it_diverged_does_not_count(root: Path) -> None:
    fill(root, peak(0.1))
    for spec in specs.grids("e1", "paper", root)["central"]:
        if spec.schedule["lr"] == 1.6:
            for seed in SEEDS:
                tree.record(spec, seed, root, top1=0.99, status="diverged", reason="the loss is nan")
    chosen = tuning.choose("e1", "paper", root)["central"]
    assert chosen["mean_top1"]["1.6"] == pytest.approx(0.1)
    assert chosen["lr"] == 0.1


@pytest.mark.parametrize(("best", "at_edge"), [(0.0125, True), (0.025, False), (0.8, False), (1.6, True)])
def test_a_rate_at_the_edge_of_its_grid_is_flagged(best: float, at_edge: bool, root: Path) -> None:
    fill(root, peak(best))
    for choice in tuning.choose("e1", "paper", root).values():
        assert (choice["lr"], choice["at_edge"]) == (best, at_edge)


@pytest.mark.parametrize("stale", [False, True])
def test_a_missing_or_stale_run_is_named(stale: bool, root: Path) -> None:
    fill(root, peak(0.1), skip=("e1-grid-large-batch-lr0_4", 102))
    if stale:
        spec = specs.find("e1-grid-large-batch-lr0_4", "paper", root)
        tree.record(spec, 102, root, fingerprint="0" * 64)
    with pytest.raises(ReproError) as caught:
        tuning.choose("e1", "paper", root)
    assert str(caught.value) == (
        "e1-grid-large-batch-lr0_4 seed 102 has no valid record; run `make controls PROFILE=paper` first"
    )
    before = (root / "data/learning_rates/paper.json").read_bytes()
    with pytest.raises(ReproError):
        tuning.write("e1", "paper", root)
    assert (root / "data/learning_rates/paper.json").read_bytes() == before


def test_what_is_written_is_what_the_runs_then_use_and_other_sources_stay(root: Path) -> None:
    fill(root, peak(0.8))
    path = specs.learning_rates_path("paper", root)
    path.write_text('{"e3": {"lars": {"lr": 7.0}}}')
    assert tuning.write("e1", "paper", root) == path
    content = files.read_json(path)
    assert content["e3"] == {"lars": {"lr": 7.0}}
    assert content["e1"] == tuning.choose("e1", "paper", root)
    assert specs.find("e1-federated-2labels", "paper", root).schedule["lr"] == 0.8
    before = path.read_bytes()
    assert tuning.write("e1", "paper", root).read_bytes() == before
    fill(root, peak(0.0125), source="e2")
    tuning.write("e2", "paper", root)
    assert files.read_json(path) == content | {"e2": tuning.choose("e2", "paper", root)}
    assert specs.find("e2-large-batch-dgc", "paper", root).schedule["lr"] == 0.0125


def test_damaged_learning_rates_are_said_in_one_line(root: Path) -> None:
    fill(root, peak(0.8))
    specs.learning_rates_path("paper", root).write_text("<<<<<<< HEAD\n")
    with pytest.raises(ReproError, match=r"paper\.json: truncated or not JSON"):
        tuning.write("e1", "paper", root)
