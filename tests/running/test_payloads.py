"""Laws of measured payloads: what is encoded, what codecs remember, and that zip is of the same message."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from repro import codecs, models
from repro.checkpoint import Checkpoint
from repro.codecs.base import REGISTERED
from repro.data import partition
from repro.data.batches import Batches, Images
from repro.randomness import generator
from repro.results import traffic
from repro.running import payloads
from repro.training import plain
from repro.training.steps import Optimisation, gradients

SEED = 3
LR = 0.05


def toy_batches() -> Batches:
    """Five batches of 8 images."""
    random = generator(SEED, "toy")
    pixels = random.integers(0, 256, size=(40, 8, 8, 3), dtype=np.uint8)
    labels = random.integers(0, 4, size=40)
    data = Images(pixels, labels, (0.5,) * 3, (0.25,) * 3, dtype=torch.float32, padding=1)
    return Batches(data, partition.iid(labels, 1, generator(SEED, "shards")), 8, SEED, True)


def toy_model() -> torch.nn.Module:
    return models.build("resnet18", classes=4, width=4, seed=SEED)


def rows_of(steps: list[int], precision: str, *, report=lambda share: None, checkpoint=None, **when):
    optimisation, moments = Optimisation(lambda _: LR, precision=precision), payloads.Moments(steps, **when)
    return payloads.measure(
        toy_model(), toy_batches(), optimisation, moments, SEED, checkpoint=checkpoint, report=report
    )


def measured(steps: list[int], precision: str = "fp32", **options) -> dict[tuple[int, str, str], int]:
    """(step, what, codec) -> bytes."""
    rows = rows_of(steps, precision, **options)
    found = {(row["step"], row["what"], row["codec"]): row["bytes"] for row in rows}
    assert len(found) == len(rows)
    assert {row["dense_bytes"] for row in rows} == {size for (_, _, codec), size in found.items() if codec == "dense"}
    return found


def trajectory(last: int) -> tuple[list[dict[str, torch.Tensor]], list[dict[str, torch.Tensor]]]:
    """Gradients of steps 1 to ``last``, and weights after 0 to ``last`` steps, of the same training."""
    model, batches = toy_model(), toy_batches()
    optimiser = torch.optim.SGD(model.parameters(), lr=LR)
    named = lambda: {name: p.detach().clone() for name, p in model.named_parameters()}  # noqa: E731
    seen, weights = [], [named()]
    for _ in plain.centralised(model, optimiser, batches, Optimisation(lambda _: LR), range(last)):
        seen.append({name: tensor.clone() for name, tensor in gradients(model).items()})
        weights.append(named())
    return seen, weights


def test_rows_are_of_gradients_by_every_codec_and_of_changes_and_weights_by_those_of_federated_averaging() -> None:
    found = measured([1, 3], local_steps=2, memory_steps=0)
    quantised = {*payloads.QUANTISED, "int8+zip"}
    every = set(payloads.CODECS) | {f"{name}+zip" for name in payloads.ZIPPED}
    wanted = {(step, "gradient", codec) for step in (1, 3) for codec in every}
    wanted |= {(step, "weights", codec) for step in (1, 3) for codec in quantised}
    assert set(found) == wanted | {(3, "change", codec) for codec in quantised}, "one step holds no change of two"
    assert payloads.CODECS.keys() >= {traffic.dgc_at(sparsity) for sparsity in codecs.WARM_UP}


def test_each_length_is_that_of_the_payload_of_what_it_names() -> None:
    found = measured([5], local_steps=3, memory_steps=0)
    seen, weights = trajectory(5)
    change = {name: tensor - weights[2][name] for name, tensor in weights[5].items()}
    for what, tensors in (("gradient", seen[4]), ("change", change), ("weights", weights[5])):
        for name in ("dense", "int8", "int8+zip", "int8-affine"):
            codec = codecs.build(name)
            assert found[5, what, name] == len(codec.encode(codec.new_state(), tensors)), (what, name)
    for name, level in (("top-k", 0.999), ("dgc@0.75+zip", 0.75)):
        codec = codecs.build("top-k" if name == "top-k" else "dgc+zip", sparsity=level if name == "top-k" else (level,))
        assert found[5, "gradient", name] == len(codec.encode(codec.new_state(SEED, 0), seen[4]))


@pytest.mark.parametrize("name", payloads.REMEMBERING)
def test_codecs_remember_the_steps_before_each_measured_one(name: str) -> None:
    seen, _ = trajectory(6)
    inner, options = payloads.CODECS[name]
    for memory_steps, given in ((0, [3, 6]), (1, [2, 3, 5, 6]), (None, [1, 2, 3, 4, 5, 6])):
        codec = codecs.build(inner, **options)
        state = codec.new_state(SEED, 0)
        lengths = {step: len(codec.encode(state, seen[step - 1])) for step in given}
        found = measured([3, 6], memory_steps=memory_steps)
        assert [found[step, "gradient", name] for step in (3, 6)] == [lengths[3], lengths[6]]
        assert state["messages"] == len(given)


def test_a_zipped_row_is_the_message_of_its_codec_and_not_a_second_one() -> None:
    """The memory moves on once a step, whether or not the message is zipped as well."""
    seen, _ = trajectory(2)
    codec = codecs.build("dgc", sparsity=(0.9375,))
    state, found = codec.new_state(SEED, 0), measured([1, 2])
    for step in (1, 2):
        payload = codec.encode(state, seen[step - 1])
        assert found[step, "gradient", "dgc@0.9375"] == len(payload)
        assert found[step, "gradient", "dgc@0.9375+zip"] == len(codecs.Zipped(codec).zip(payload))


def test_the_threshold_is_what_a_thousandth_reaches_at_the_first_step_and_stays() -> None:
    seen, _ = trajectory(4)
    values = torch.cat([g.flatten().abs() for g in seen[0].values() if g.dim() == 4])
    kept = int(np.ceil(len(values) / 1000))
    codec = codecs.build("threshold", threshold=float(values.sort(descending=True).values[kept - 1]))
    found = measured([1, 4], memory_steps=0)
    for step in (1, 4):
        assert found[step, "gradient", "threshold"] == len(codec.encode(codec.new_state(), seen[step - 1]))
    sent = sum(int((tensor != 0).sum()) for tensor in codec.decode(codec.encode(codec.new_state(), seen[0]))
               if tensor.dim() == 4)  # fmt: skip
    assert sent == kept


def test_codecs_never_see_a_bfloat16_gradient() -> None:
    """With bfloat16 the low half of most values is zero, and zip of the exact values would gain from it."""
    seen: list[bool] = []

    class Spy(codecs.Dense):
        def encode(self, state, tensors):
            convolutions = [t for name, t in tensors.items() if name.startswith("gradient") and t.dim() == 4]
            if convolutions:
                values = torch.cat([t.flatten() for t in convolutions])
                bits = values[values != 0].view(torch.int32)
                seen.append(bool(((bits & 0xFFFF) == 0).float().mean() > 0.5))
            return super().encode(state, tensors)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(REGISTERED, "dense", REGISTERED["dense"]._replace(make=Spy))
        rounded = measured([1, 5], "bf16", memory_steps=1)
    assert seen == [False, False]
    exact = measured([1, 5], "fp32", memory_steps=1)
    assert {key: rounded[key] for key in rounded if key[0] == 1} == {key: exact[key] for key in exact if key[0] == 1}
    assert rounded != exact, "the steps between compute in bfloat16"


class Killed(Exception):
    pass


@pytest.mark.parametrize("at", [1, 2, 4])
def test_a_killed_measurement_goes_on_to_the_same_rows(at: int, tmp_path: Path) -> None:
    options = {"local_steps": 2, "memory_steps": 1}
    steps = [1, 3, 5]
    undisturbed = rows_of(steps, "bf16", **options)
    path = tmp_path / "run.pt"

    def kill(share: float) -> None:
        if share * 5 > at + 0.5:
            raise Killed

    with pytest.raises(Killed):
        rows_of(steps, "bf16", **options, checkpoint=Checkpoint(path, "print", 0), report=kill)
    seen: list[float] = []
    again = rows_of(steps, "bf16", **options, checkpoint=Checkpoint(path, "print", 0), report=seen.append)
    assert again == undisturbed
    assert seen == [share / 5 for share in range(at + 1, 6)], "it goes on after the last checkpoint"
