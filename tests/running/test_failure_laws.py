"""A training that lost a worker ends as an undisturbed one, and the law notices where it does not."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import tree

from repro.distributed import server
from repro.registry import specs
from repro.registry.published import load_published
from repro.running import failure_laws, laws
from repro.verdicts import rules


@pytest.fixture
def spec() -> specs.Spec:
    return specs.find("e2-law-lost-worker", "smoke", tree.REPOSITORY)


def test_a_training_that_lost_a_worker_ends_as_an_undisturbed_one(spec: specs.Spec) -> None:
    found = laws.LAWS[spec.law](spec, 1)
    (statement,) = (each for each in load_published(tree.REPOSITORY).statements if each.id == "e2.c16")
    assert statement.judge is not None
    (part,) = statement.judge["parts"]
    assert rules.unmet_checks(found, part["checks"]) == []
    assert (found["largest_weight_difference"], found["bytes_difference"]) == (0.0, 0)
    assert (found["killed"], found["still_running"], found["rounds_repeated"]) == (2, 0, 2)


def _forgetful(rank: int, **training: Any) -> None:
    """What each process does, as if DGC's residual and momentum had been lost with the processes before it."""
    server.remember = lambda *_: None  # type: ignore[assignment]
    failure_laws._take_part(rank, **training)


def test_a_checkpoint_that_forgets_what_clients_keep_is_noticed(spec: specs.Spec, monkeypatch) -> None:
    monkeypatch.setattr(failure_laws, "_take_part", _forgetful)  # of this process; those started have the real one
    found = failure_laws._disturbed(dataclasses.replace(spec, kind="train"), 1, last=5)
    assert found["killed"] == 1
    assert found["largest_weight_difference"] > 1e6 * failure_laws.TOLERANCE
