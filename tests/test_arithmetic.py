"""The sources' arithmetic: against numbers worked out by hand or by another route."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import tree

from repro.errors import ReproError
from repro.registry.published import load_published
from repro.verdicts import arithmetic, total_data
from repro.verdicts.arithmetic import Line
from repro.verdicts.total_data import Reading


@pytest.fixture(scope="module")
def lines() -> dict[str, Line]:
    found = arithmetic.lines(tree.REPOSITORY)
    made = {line.id: line for line in found}
    assert len(made) == len(found)
    return made


def test_every_line_belongs_to_a_source_and_has_a_known_outcome(lines: dict[str, Line]) -> None:
    known = {arithmetic.AGREES, arithmetic.DIFFERS, arithmetic.DEPENDS, arithmetic.OPEN}
    for name, line in lines.items():
        assert name.startswith(line.source + ".")
        assert line.outcome in known
        assert (line.published == "–") <= (line.outcome != arithmetic.AGREES or "expected" in line.computed), name
    assert {line.source for line in lines.values()} == {"e1", "e2", "e3", "lb"}


@pytest.mark.parametrize(
    ("name", "computed"),
    [
        ("e1.rounds-per-epoch", "16.28"),
        ("e1.local-batch", "32"),
        ("e2.classifier-resnet50-1000", "2\u202f048\u202f000"),
        ("e2.dgc-resnet18-10-6", "355.2"),
        ("e2.dgc-resnet18-1000-6", "21.7"),
        ("e2.dgc-resnet50-10-8", "195.2"),
        ("e2.dgc-resnet50-1000-6", "12.0"),
        ("e2.warm-up", "4.28 times; 77.6 %"),
        ("e2.bytes-per-value-imagenet", "7.1 bytes without warm-up; 1.66"),
        ("e3.synchronisation", "0.96 epochs"),
        ("lb.resnet50-baseline", "27.44 points, 85%"),
        ("lb.vgg11-baseline", "7.04 points"),
        ("lb.occupancy", "between 0.80 and 1.54"),
    ],
)
def test_known_results(name: str, computed: str, lines: dict[str, Line]) -> None:
    assert computed in lines[name].computed


def test_agreement_is_said_where_it_is_and_nowhere_else(lines: dict[str, Line]) -> None:
    differing = {name for name, line in lines.items() if line.outcome == arithmetic.DIFFERS}
    assert differing == {
        "e2.factors-resnet50", "lb.frequency", "lb.no-batchnorm", "lb.caltech-labels"
    }  # fmt: skip
    assert lines["e2.factors-resnet18"].outcome == arithmetic.DEPENDS
    assert lines["lb.epoch-against-250"].outcome == arithmetic.DEPENDS
    assert "AlexNet" in lines["lb.epoch-against-250"].working


def test_both_factors_of_post_2_follow_from_batch_4096_and_zipped_deltas() -> None:
    nets = {classes: total_data.network("resnet18", classes, "imagenet") for classes in (10, 1000)}
    reading = Reading(4096, 6, 0.5, False, "imagenet")
    factors = reading.factors(nets)
    large = [100 * math.ceil(50_000 / 4096) * (11_166_912 * 0.001 * 6 + 4 * rest) for rest in (14_730, 522_600)]
    federated = [150 * 0.5 * parameters for parameters in (11_181_642, 11_689_512)]
    assert factors[10] == pytest.approx(federated[0] / large[0])
    assert factors[1000] == pytest.approx(large[1] / federated[1])
    assert total_data.meets(factors)
    assert not total_data.meets(replace(reading, warm_up=True).factors(nets))


def test_the_share_of_iterations_above_a_threshold_is_that_of_a_normal_log_ratio() -> None:
    import random

    draw = random.Random(1)
    ratios = [math.exp(draw.gauss(0, 0.8)) for _ in range(40_000)]
    seen = sum(abs(ratio - 1) >= 0.5 for ratio in ratios) / len(ratios)
    assert arithmetic._share_at_least(0.5, 0.8) == pytest.approx(seen, abs=0.01)


def test_a_constant_factor_is_another_learning_rate() -> None:
    assert arithmetic._same_as_rate()
    assert arithmetic._momentum_sgd(0.4, 0.01, 1) == pytest.approx(0.4496145348)


def test_a_missing_published_table_is_one_line() -> None:
    published = load_published(tree.REPOSITORY)
    kept = published._replace(artefacts=[a for a in published.artefacts if a.id != "lb.table1"])
    with pytest.raises(ReproError, match=r"lb.table1: rows of the table were expected"):
        arithmetic._lb(kept)
