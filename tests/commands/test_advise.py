"""``repro advise``: what it advises follows from its evidence, holds when it is tried, and bad input is one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import synthetic_lb
import tree

from repro import cli, machine
from repro.commands import advice, advise, probe
from repro.errors import ReproError
from repro.performance import peak
from repro.performance.workload import Workload
from repro.registry import specs
from repro.results import batch_costs
from repro.results.links import Link

TOY = Workload(model="resnet18", classes=10, image_size=16, images=4096, width=4)


def evidence(slope: float = 1e6, base: float = 3e8, **more: object) -> advice.Evidence:
    steps = {size: np.full((3, 2), 0.01 + 0.001 * size) for size in (1, 32, 128, 512)}
    made = {"origin": "made up", "peaks": {16: base + 16 * slope, 64: base + 64 * slope}, "steps": steps, "noise": 0.01}
    return advice.Evidence(**(made | more))  # type: ignore[arg-type]


@pytest.mark.parametrize(("text", "count"), [("8GiB", 2**33), ("1.5 GB", 1.5e9), ("1024", 1024), ("3MiB", 3 * 2**20)])
def test_memory_is_read_with_its_unit(text: str, count: float) -> None:
    assert advise.parse_bytes(text) == count


@pytest.mark.parametrize(
    "text", ["", "8 gigs", "-1GiB", "0GiB", "GiB", "nanGiB", "1e9", "9" * 400 + "GiB", "9" * 400, "0.1"]
)
def test_other_memory_is_one_line(text: str) -> None:
    with pytest.raises(ReproError, match="a number above 0 and one of"):
        advise.parse_bytes(text)


def test_the_largest_batch_leaves_a_margin_and_never_exceeds_the_images() -> None:
    budget = 1_000_000_000
    found = advice.advise(TOY, evidence(), budget)
    assert found["largest_batch"] == 680  # (0.98e9 - 0.3e9) / 1e6
    assert found["limited_by"] == "memory"
    few = Workload(**{**TOY.as_dict(), "images": 100})  # type: ignore[arg-type]
    assert advice.advise(few, evidence(), budget)["largest_batch"] == 100
    assert advice.advise(few, evidence(), budget)["limited_by"] == "number of images"
    with pytest.raises(ReproError, match="one image already needs"):
        advice.advise(TOY, evidence(), 300_000_000)


def test_step_and_epoch_follow_the_measured_steps_also_beyond_them() -> None:
    found = advice.advise(TOY, evidence(), 10_000_000_000)
    by_batch = {each["batch"]: each for each in found["batches"]}
    largest = by_batch[found["largest_batch"]]
    assert largest["extrapolated"]
    assert largest["step_seconds"][0] == pytest.approx(0.01 + 0.001 * largest["batch"])
    assert largest["epoch_seconds"][0] == pytest.approx(-(-4096 // largest["batch"]) * largest["step_seconds"][0])


def test_the_fastest_batch_is_a_measured_one_and_the_largest_may_lie_beyond() -> None:
    found = advice.advise(TOY, evidence(), 10_000_000_000)
    assert found["fastest_batch"] == 512 < found["largest_batch"]
    assert any("time extrapolated beyond 512" in line for line in advise.lines(found))


def test_a_budget_that_leaves_one_measured_size_says_so_in_one_line_and_one_that_leaves_none_is_refused() -> None:
    found = advice.advise(TOY, evidence(), round(320_500_000 / 0.98))  # up to 20 images
    assert found["measured"] == [1]
    assert "fastest batch: 1 is the only measured one that this memory leaves; allow more to compare" in "\n".join(
        advise.lines(found)
    )
    late = {size: each for size, each in evidence().steps.items() if size > 100}
    with pytest.raises(ReproError, match="up to 20, the smallest timed one is 128"):
        advice.advise(TOY, evidence(steps=late), round(320_500_000 / 0.98))


def test_shares_and_synchronisation() -> None:
    links = [Link("slow", down=2, up=1), Link("fast", down=200, up=100)]
    found = advice.advise(TOY, evidence(), 10**9, speeds=[1.0, 0.5], links=links, every=4)
    shares = found["shares"]
    for name in ("uniform", "proportional", "equalising"):
        assert sum(shares[name]["shares"]) == shares["global_batch"]
    assert shares["proportional"]["round_seconds"] < shares["uniform"]["round_seconds"]
    assert shares["equalising"]["round_seconds"] <= shares["proportional"]["round_seconds"] * 1.0001
    seconds = links[0].seconds(found["message_bytes"], found["message_bytes"])
    assert found["assumed_synchronisation_seconds"] == pytest.approx(seconds)
    first = found["batches"][0]
    assert first["mean_step_seconds"] == pytest.approx(first["step_seconds"][0] + seconds / 4)
    told = "\n".join(advise.lines(found))
    assert "times faster than uniform" in told
    assert "measured steps with assumed speeds and synchronisation" in told
    assert "synchronisation, assumed from the links, not measured" in told


FLOORS = [0.3e9, 0.5e9, 0.7e9, 0.9e9]


@pytest.mark.parametrize("floor", FLOORS)
@pytest.mark.parametrize("image", [2e4, 1e6, 3e7])
def test_probes_go_on_until_memory_grows_with_the_batch(
    floor: float, image: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loading images takes ``floor`` bytes at its highest, training 0.25 GB and ``image`` bytes for each image."""
    budget, tried = 1_000_000_000, []

    def train(workload: Workload, batch: int, limit: int, device: str) -> peak.Peak:
        tried.append(batch)
        used = max(floor, 0.25e9 + image * batch)
        return peak.Peak(batch, round(used), 200_000_000, used <= limit)

    monkeypatch.setattr(peak, "train", train)
    work = Workload(**{**TOY.as_dict(), "images": 100_000})  # type: ignore[arg-type]
    peaks = probe.probe_memory(work, budget)
    assert len(tried) == len(set(tried)) < 20
    predicted = batch_costs.advised_batch(advice.line_of(peaks), budget)
    assert predicted == pytest.approx((0.98e9 - 0.25e9) / image, abs=1)


def test_images_too_few_to_probe_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peak, "train", lambda *_, **__: peak.Peak(1, 300_000_000, 200_000_000, True))
    with pytest.raises(ReproError, match="1 images are too few to probe two batch sizes"):
        probe.probe_memory(Workload(**{**TOY.as_dict(), "images": 1}), 10**9)  # type: ignore[arg-type]


def test_a_probe_says_how_far_it_is(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "SIZES", (1, 2, 4))
    monkeypatch.setattr(probe, "LONGEST_STEP", float("inf"))  # however busy the machine is
    probe.probe_time(TOY, 4)
    said = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[1].split(", ")[1] for line in said] == [
        "batch 1", "batch 2", "batch 4", *(f"block {k} of {probe.BLOCKS} timed" for k in (1, 2, 3)),
    ]  # fmt: skip


def test_probes_that_lie_close_together_make_no_line_and_show_what_was_watched() -> None:
    """Of batch 224 and 231 the larger had the smaller peak: what processes differ by."""
    peaks = {64: 0.4e9, 128: 0.6e9, 224: 0.93e9, 231: 0.91e9}
    made = evidence(peaks=peaks, tried=True)
    assert made.memory.slope == pytest.approx((0.91e9 - 0.6e9) / (231 - 128))
    assert [made.bytes_at(batch) for batch in peaks] == list(peaks.values())
    found = advice.advise(TOY, made, 1_000_000_000)
    assert found["largest_batch"] == 231
    assert found["largest_batch_bytes"] == 910_000_000


@pytest.mark.parametrize(("slope", "tried"), [(0.9e6, [700, 722]), (1e6, [700]), (1.5e6, [700, 651, 605])])
def test_a_prediction_is_tried_out_until_it_is_close(
    slope: float, tried: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line of 1 MB an image through what was probed, and ``slope`` beyond 500 images. The budget is for 700."""
    seen: list[int] = []

    def train(workload: Workload, batch: int, limit: int, device: str) -> peak.Peak:
        seen.append(batch)
        used = 0.5e9 + slope * (batch - 500)
        return peak.Peak(batch, round(used), 200_000_000, used <= limit)

    monkeypatch.setattr(peak, "train", train)
    budget = round(0.7e9 / (1 - batch_costs.MARGIN)) + 1
    found = probe.try_out(TOY, {250: 0.25e9, 500: 0.5e9}, budget)
    assert seen == tried
    advised = advice.advise(TOY, evidence(peaks=found, tried=True), budget)
    assert advised["largest_batch"] == max(found) == tried[-1], "nothing is advised that did not train"
    assert advised["limited_by"] == "memory"


def test_half_of_the_advised_batch_really_trains_under_the_limit_and_twice_the_advised_one_does_not() -> None:
    """On so small a process the advice itself may miss: a per cent of memory that malloc keeps is many images."""
    base = peak.train(TOY, 1).peak
    budget = base + 100 * 2**20
    peaks = probe.try_out(TOY, probe.probe_memory(TOY, budget), budget)
    advised = batch_costs.advised_batch(advice.line_of(peaks), budget)
    assert probe.check(TOY, advised // 2, budget)["fits"]
    assert not probe.check(TOY, advised, budget)["twice_fits"]


def run(arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = cli.main(["advise", *arguments.split()])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tree.plant(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("--model resnt50 --data cifar10 --memory 1GiB", "unknown model 'resnt50'"),
        ("--model resnet50 --data cifar --memory 1GiB", "unknown data set 'cifar'"),
        ("--model alexnet --data cifar10 --memory 1GiB", "at least 63 px were expected"),
        ("--model resnet50 --data cifar10 --memory 1GB5", "a number above 0"),
        ("--model resnet50 --data cifar10 --memory 999999GiB --probe", "a budget within it was expected"),
        ("--model resnet50 --data cifar10 --memory 999999GiB --check", "a budget within it was expected"),
        ("--model resnet50 --data cifar10 --memory 999999GiB", "run the command with --probe"),
        ("--model resnet50 --data cifar10 --memory 1GiB --clients 4", "--clients 4 alone changes nothing"),
        ("--model resnet50 --data cifar10 --memory 1GiB", "run the command with --probe"),
        ("--model resnet50 --data cifar10 --memory 100MiB --probe", "at batch 1 needs more"),
        ("--model resnet50 --data cifar10 --memory 1GiB --speeds fast", "numbers separated by commas"),
        ("--model resnet50 --data cifar10 --memory 1GiB --links pigeon", "unknown link 'pigeon'"),
        ("--model resnet50 --data cifar10 --memory 1GiB --clients 1 --speeds 1,2", "at least as many"),
    ],
)
def test_bad_input_is_one_line(arguments: str, says: str, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(arguments, capsys)
    said = [line for line in err.splitlines() if not line.startswith("probe: ")]  # how far a probe is
    assert (code, out, len(said)) == (2, "", 1)
    assert says in said[0]


def test_committed_measurements_of_this_kind_of_machine_are_used_and_others_are_not(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = specs.find("lb-perf-resnet50", "study", root)
    here = {key: machine.describe()[key] for key in ("device", "instructions", "torch")} | {"threads": 1, "kind": "cpu"}
    tree.record(spec, 11, root, machine=synthetic_lb.MACHINE)
    command = "--model resnet50 --data cifar10 --memory 2GiB --json --profile study"
    assert run(command, capsys)[0] == 2
    tree.record(spec, 11, root, machine=here)
    code, out, _ = run(command, capsys)
    found = json.loads(out)
    assert code == 0
    assert "measured on this kind of machine" in found["evidence"]
    assert found["workload"]["images"] == 50_000
    assert found["largest_batch"] >= found["fastest_batch"] > 0
