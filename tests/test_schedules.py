import dataclasses
import itertools
import json
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro.errors import ReproError
from repro.experiments.schedules import Constant, Cosine, Plateau, Step, Warmup, build

SPECS = [
    {"kind": "constant", "lr": 0.1},
    {"kind": "step", "lr": 0.1, "milestones": [110, 150], "factor": 0.1},
    {"kind": "cosine", "lr": 0.1, "epochs": 20},
    {"kind": "plateau", "lr": 0.1, "factor": 0.5, "patience": 3, "threshold": 0.01},
]
WARMUP = {"warmup_epochs": 5, "warmup_from": 0.01}


def torch_scheduler(lr, make):
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    scheduler = make(torch.optim.lr_scheduler, optimizer)

    def step(*metric):
        optimizer.step()
        scheduler.step(*metric)
        return optimizer.param_groups[0]["lr"]

    return step


@pytest.mark.parametrize("warmup", [{}, WARMUP], ids=["plain", "warm-up"])
@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec["kind"])
def test_every_schedule_starts_positive_and_stays_within_its_learning_rate(spec, warmup):
    schedule = build({**spec, **warmup})
    rates = [schedule.lr(step / 16) for step in range(16 * 20)]
    assert rates[0] == warmup.get("warmup_from", spec["lr"])
    assert max(rates) == spec["lr"]
    assert min(rates) > 0
    assert all(isinstance(rate, float) for rate in rates)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec["kind"])
def test_warm_up_is_linear_per_iteration_and_exact_at_both_ends(spec):
    schedule = build({**spec, "lr": 0.8, "warmup_epochs": 6, "warmup_from": 0.1})
    assert schedule.lr(0) == 0.1
    assert schedule.lr(6) == 0.8
    assert schedule.lr(math.nextafter(6, 0)) == pytest.approx(0.8, rel=1e-12)
    steps = [schedule.lr(step / 16) for step in range(6 * 16 + 1)]
    rises = [b - a for a, b in itertools.pairwise(steps)]
    assert rises == pytest.approx([0.7 / 96] * 96, rel=1e-9)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec["kind"])
def test_fewer_steps_per_epoch_keep_the_shape(spec):
    schedule = build({**spec, **WARMUP})
    fine = [schedule.lr(step / 64) for step in range(64 * 20)]
    coarse = [schedule.lr(step / 4) for step in range(4 * 20)]
    assert fine[::16] == coarse


def test_cosine_is_exact_at_both_edges_and_beyond_the_end():
    schedule = build({"kind": "cosine", "lr": 0.1, "epochs": 20, **WARMUP})
    assert schedule.lr(5) == 0.1
    assert schedule.lr(12.5) == pytest.approx(0.05, rel=1e-15)
    assert [schedule.lr(epoch) for epoch in (20, 20.5, 1e9)] == [0.0, 0.0, 0.0]


def test_cosine_follows_torch():
    step = torch_scheduler(0.3, lambda lib, optimizer: lib.CosineAnnealingLR(optimizer, T_max=50))
    schedule = Cosine(0.3, 50)
    for epoch in range(1, 51):
        assert schedule.lr(epoch) == pytest.approx(step(), rel=1e-9, abs=1e-15)


def test_step_follows_torch():
    step = torch_scheduler(0.3, lambda lib, optimizer: lib.MultiStepLR(optimizer, [3, 10, 11], gamma=0.2))
    schedule = Step(0.3, (3, 10, 11), 0.2)
    for epoch in range(1, 21):
        assert schedule.lr(epoch) == pytest.approx(step(), rel=1e-12)


def test_plateau_follows_torch_on_random_sequences():
    random_ = random.Random(0)
    total_cuts = 0
    for _ in range(200):
        factor, patience = random_.choice([0.1, 0.5, 0.9]), random_.randrange(5)
        threshold = random_.choice([0.0, 1e-4, 0.1])
        step = torch_scheduler(
            0.1,
            lambda lib, optimizer, f=factor, p=patience, t=threshold: lib.ReduceLROnPlateau(
                optimizer, factor=f, patience=p, threshold=t
            ),
        )
        schedule = Plateau(0.1, factor, patience, threshold)
        loss = 2.0
        for epoch in range(1, 60):
            # Repeats and small moves, so that equality and the threshold matter.
            loss *= random_.choice([1.0, 1.0, 0.99995, 0.9, 0.97, 1.05])
            schedule = schedule.observe(loss, epoch)
            assert schedule.lr(epoch) == pytest.approx(step(loss), rel=1e-9)
        total_cuts += schedule.cuts
    assert total_cuts > 500


def test_plateau_stops_cutting_where_torch_does():
    step = torch_scheduler(0.1, lambda lib, optimizer: lib.ReduceLROnPlateau(optimizer, patience=0))
    schedule = Plateau(0.1, patience=0)
    for epoch in range(1, 30):
        schedule = schedule.observe(1.0, epoch)
        assert schedule.lr(epoch) == pytest.approx(step(1.0), rel=1e-9)
    assert schedule.cuts == 7


def test_observing_leaves_the_observed_schedule_as_it_was():
    before = Plateau(0.1, patience=0).observe(1.0, 1)
    after = before.observe(1.0, 2)
    assert (before.cuts, after.cuts) == (0, 1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        before.cuts = 3


def test_observations_within_the_warm_up_do_not_count():
    schedule = build({"kind": "plateau", "lr": 0.8, "patience": 0, "warmup_epochs": 6, "warmup_from": 0.1})
    for epoch in range(1, 6):
        schedule = schedule.observe(2.0, epoch)
    assert schedule.state() == {"best": None, "bad_observations": 0, "cuts": 0}
    schedule = schedule.observe(2.0, 6).observe(2.0, 7)
    assert schedule.lr(7) == pytest.approx(0.08)
    assert schedule.lr(3) == pytest.approx(0.45)


@pytest.mark.parametrize("spec", [spec for spec in SPECS if spec["kind"] != "plateau"], ids=lambda s: s["kind"])
def test_only_the_plateau_rule_has_state(spec):
    schedule = build({**spec, **WARMUP})
    assert schedule.observe(1.0, 7) == schedule
    assert schedule.state() == {}
    assert schedule.with_state({}) == schedule


@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=40), st.integers(0, 39), st.booleans())
def test_a_plateau_resumed_from_its_state_continues_as_if_never_stopped(losses, cut, warm):
    spec = {**SPECS[3], "patience": 1, **(WARMUP if warm else {})}
    schedule = build(spec)
    for epoch, loss in enumerate(losses):
        if epoch == cut:
            schedule = build(spec).with_state(json.loads(json.dumps(schedule.state(), allow_nan=False)))
        schedule = schedule.observe(loss, epoch)
    straight = build(spec)
    for epoch, loss in enumerate(losses):
        straight = straight.observe(loss, epoch)
    assert schedule == straight


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"best": 1.0},
        {"best": 1.0, "bad_observations": 0, "cuts": 0, "lr": 0.1},
        {"best": math.nan, "bad_observations": 0, "cuts": 0},
        {"best": 1.0, "bad_observations": -1, "cuts": 0},
    ],
)
def test_a_state_of_another_schedule_is_an_error(state):
    with pytest.raises(ReproError):
        Plateau(0.1).with_state(state)


def test_state_for_a_schedule_without_state_is_an_error():
    with pytest.raises(ReproError, match="'cuts'"):
        Constant(0.1).with_state({"cuts": 1})


@pytest.mark.parametrize("metric", [math.nan, math.inf, "1.0", None])
def test_plateau_refuses_a_metric_that_is_no_number(metric):
    with pytest.raises(ReproError, match="metric"):
        Plateau(0.1).observe(metric, 1)


@pytest.mark.parametrize("epoch", [-0.1, math.nan, math.inf, "1"])
@pytest.mark.parametrize("spec", [*SPECS, {**SPECS[2], **WARMUP}])
def test_progress_that_is_no_time_is_an_error(spec, epoch):
    with pytest.raises(ReproError, match="epoch is"):
        build(spec).lr(epoch)


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        ({}, "key kind: missing"),
        ("cosine", "a mapping was expected"),
        ({"kind": "cosin", "lr": 0.1}, "constant, step, cosine, plateau"),
        ({"kind": ["cosine"]}, "constant, step, cosine, plateau"),
        ({"kind": "cosine", "lr": 0.1}, "key epochs: missing"),
        ({"kind": "constant", "lr": 0.1, "epochs": 3}, "'epochs'"),
        ({"kind": "constant", "lr": 0.1, "base_lr": 3}, "'base_lr'"),
        ({"kind": "plateau", "lr": 0.1, "cuts": 3}, "'cuts'"),
        ({"kind": "constant", "lr": 0.1, "warmup_epochs": 3}, "warmup_from"),
        ({"kind": "constant", "lr": 0.1, "warmup_from": 0.01}, "warmup_epochs"),
        ({"kind": "constant", "lr": 0.1, "warmup_epochs": 3, "warmup_from": 0.2}, "warmup_from"),
        ({"kind": "constant", "lr": 0.1, "warmup_epochs": 3, "warmup_from": 0}, "warmup_from"),
        ({"kind": "constant", "lr": 0.1, "warmup_epochs": 0, "warmup_from": 0.01}, "warmup_epochs"),
        ({**SPECS[2], "warmup_epochs": 20, "warmup_from": 0.01}, "shorten the warm-up"),
        ({**SPECS[1], "warmup_epochs": 110, "warmup_from": 0.01}, "shorten the warm-up"),
        ({**SPECS[1], "milestones": []}, "milestones"),
        ({**SPECS[1], "milestones": 3}, "milestones"),
        ({**SPECS[1], "milestones": [3, 3]}, "increasing"),
        ({**SPECS[1], "milestones": [0, 3]}, "milestones"),
        ({**SPECS[1], "milestones": [1, math.nan]}, "milestones"),
        ({**SPECS[1], "factor": 1}, "factor"),
        ({**SPECS[3], "factor": 0}, "factor"),
        ({**SPECS[3], "patience": -1}, "patience"),
        ({**SPECS[3], "patience": 1.5}, "patience"),
        ({**SPECS[3], "threshold": -0.1}, "threshold"),
        ({**SPECS[3], "threshold": math.nan}, "threshold"),
        *(({"kind": "constant", "lr": lr}, "key lr: ") for lr in (0, -0.1, math.nan, math.inf, None, True, "1e-1")),
        *(({"kind": "cosine", "lr": 0.1, "epochs": n}, "key epochs: ") for n in (0, -1, math.nan, "20")),
    ],
)
def test_build_names_what_is_wrong_in_one_line(spec, named):
    with pytest.raises(ReproError, match=named) as caught:
        build(spec)
    assert "\n" not in str(caught.value)


def test_warm_up_into_warm_up_is_an_error():
    with pytest.raises(ReproError, match="changes within the warm-up"):
        Warmup(0.01, 2, then=Warmup(0.05, 5, then=Constant(0.1)))
