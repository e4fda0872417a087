"""What every registered codec promises, alone and zipped; and that a codec is one file."""

import io
import math
import shutil

import numpy as np
import pytest
import torch
from messages import GREATEST, MAKERS, NAMES, SUBNORMAL, built, each_codec, normal, says, send
from toy import toy_batches

from repro import codecs, models
from repro.codecs import DGC, QSGD, Expected, Int8, OneBit, TernGrad, Threshold, TopK, base
from repro.errors import NotFinite, ReproError
from repro.experiments import numerics
from repro.randomness import generator
from repro.registry import specs
from repro.training import plain
from repro.training.buffers import shared_state
from repro.training.exchange import Exchange
from repro.training.steps import Optimisation

each_name = pytest.mark.parametrize("name", NAMES)


def message(seed=0):
    """What a network sends: convolutions in both memory formats, vectors, a scalar, nothing at all, two types."""
    random = generator(seed, "message")
    draw = lambda *shape: torch.from_numpy(random.standard_normal(shape))  # noqa: E731
    return {
        "stem.weight": draw(8, 3, 3, 3).float().to(memory_format=torch.channels_last),
        "conv.weight": draw(4, 8, 3, 3),
        "classifier.weight": draw(5, 7).float(),
        "norm.running_mean": draw(9),
        "scalar": draw(1).float()[0],
        "empty": torch.zeros(0, 4),
    }


@each_name
def test_what_arrives_has_the_types_and_shapes_of_what_was_sent_and_is_finite(name):
    codec, sent = built(name), message()
    payload = codec.encode(codec.new_state(), sent)
    assert isinstance(payload, bytes)
    received = codec.decode(payload, Expected.like(sent.values()))
    assert [(t.dtype, t.shape) for t in received] == [(t.dtype, t.shape) for t in sent.values()]
    assert all(bool(torch.isfinite(tensor).all()) for tensor in received)
    assert len(payload) <= Expected.like(sent.values()).payload


@each_name
def test_running_statistics_and_tensors_sent_are_left_as_they_are(name):
    codec, sent = built(name), message()
    before = {key: tensor.clone() for key, tensor in sent.items()}
    received = codec.decode(codec.encode(codec.new_state(), sent))
    assert all(torch.equal(sent[key], before[key]) for key in sent)
    assert torch.equal(received[list(sent).index("norm.running_mean")], before["norm.running_mean"])


@each_name
def test_equal_memory_sends_equal_bytes(name):
    codec = built(name)
    states = codec.new_state(3, 1), codec.new_state(3, 1)
    for seed in range(3):
        first, second = (codec.encode(state, message(seed)) for state in states)
        assert first == second
    assert states[0]["client"] == 1


@each_name
def test_fixed_size_means_exact_and_of_a_length_that_shapes_decide(name):
    codec = built(name)
    lengths = {len(codec.encode(codec.new_state(), message(seed))) for seed in range(3)}
    exact = all(torch.equal(a, b) for a, b in zip(codec.decode(codec.encode(codec.new_state(), message())),
                                                  message().values(), strict=True))  # fmt: skip
    if codec.fixed_size:
        assert exact
        assert len(lengths) == 1


@each_name
def test_damage_is_refused(name):
    codec = built(name)
    payload = codec.encode(codec.new_state(), message())
    cuts = generator(0, "cuts").integers(0, len(payload), 20)
    flips = generator(1, "flips").integers(0, 8 * len(payload), 20)
    damaged = [payload[:cut] for cut in cuts] + [payload + b"\0"]
    for flip in flips:
        wrong = bytearray(payload)
        wrong[flip // 8] ^= 1 << flip % 8
        damaged.append(bytes(wrong))
    for wrong in damaged:
        with pytest.raises(ReproError):
            codec.decode(wrong)


@pytest.mark.parametrize("name", codecs.NAMES)
def test_payloads_of_another_number_are_refused(name):
    payload = built(name).encode(built(name).new_state(), message())
    for other in codecs.NAMES:
        if built(other).number != built(name).number:
            with pytest.raises(ReproError, match="decode it with the codec that made it"):
                built(other).decode(payload)


SPECIAL = {
    "empty": torch.zeros(0),
    "empty-3d": torch.zeros(3, 0, 2),
    "scalar": torch.tensor(1.5),
    "zeros": torch.zeros(4, 5),
    "constant": torch.full((4, 4), -0.1),
    "huge": torch.tensor([GREATEST, -GREATEST, GREATEST / 2, 1.0, 0.0]),
    "subnormal": torch.tensor([SUBNORMAL, -3 * SUBNORMAL, 178 * SUBNORMAL, 0.0]),
    "wide": torch.tensor([SUBNORMAL, 1e-20, 1.0, 1e20, -GREATEST]),
    "convolution": normal(4, 3, 3, 3).to(memory_format=torch.channels_last),
    "strided": normal(4, 3, 2, 5).transpose(0, 3)[:, ::2],
    "expanded": torch.tensor([1.0, 2.0]).expand(3, 2),
    "parameter": torch.nn.Parameter(torch.ones(3)),
    "double": normal(3, 4, dtype=torch.float64),
    "double-edges": torch.tensor([5e-324, -1.7976931348623157e308, 1.7976931348623157e308], dtype=torch.float64),
}  # fmt: skip


@each_codec
@pytest.mark.parametrize("case", SPECIAL)
def test_every_tensor_comes_back_with_its_shape_and_type_and_finite(name: str, case: str) -> None:
    codec, tensor = MAKERS[name](), SPECIAL[case]
    state = codec.new_state(1)
    for _ in range(3 if float(tensor.detach().abs().sum()) < 1e38 else 1):  # what accumulates would overflow
        received = send(codec, tensor, state)
        assert received.shape == tensor.shape
        assert received.dtype == tensor.dtype
        assert torch.isfinite(received).all()


@each_codec
def test_a_message_keeps_the_order_of_its_tensors_and_may_be_empty(name: str) -> None:
    codec = MAKERS[name]()
    state = codec.new_state()
    assert codec.decode(codec.encode(state, {})) == []
    received = codec.decode(codec.encode(state, {"b": torch.ones(2), "a": torch.full((3,), 2.0)}))
    assert [tensor.shape for tensor in received] == [(2,), (3,)]
    assert codec.encode(codec.new_state(), {"b": torch.ones(2)}) == codec.encode(
        codec.new_state(), {"a": torch.ones(2)}
    )


@pytest.mark.parametrize("name", ["int8", "int8-affine", "top-k", "top-k-residual", "threshold", "1-bit"])
def test_the_layout_in_memory_changes_the_order_on_the_wire_only(name: str) -> None:
    x = normal(4, 3, 5, 2)
    y = x.to(memory_format=torch.channels_last)
    received = send(MAKERS[name](), y)
    assert torch.allclose(received, send(MAKERS[name](), x), rtol=1e-6, atol=0)
    assert received.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", ["dgc", "top-k-residual", "1-bit"])
@pytest.mark.parametrize("turn", [lambda x: x.transpose(0, 3), lambda x: x.to(memory_format=torch.channels_last)])
def test_what_is_kept_does_not_depend_on_the_layout_staying_the_same(name: str, turn) -> None:
    first, second = normal(4, 4, 4, 4, seed=1), normal(4, 4, 4, 4, seed=2)
    codec = MAKERS[name]()
    state, sent = codec.new_state(), torch.zeros(4, 4, 4, 4)
    for tensor in (turn(first), turn(second).contiguous(), turn(first)):
        before = {kind: kept["t"].clone() for kind, kept in state["memory"].items()}
        sent = send(codec, tensor, state)
        added = tensor + (0.9 * before["velocity"] if name == "dgc" and before else 0)
        total = added + (before["residual"] if before else 0)
        assert torch.allclose(sent + state["memory"]["residual"]["t"], total, atol=1e-6)


@each_codec
def test_decoded_tensors_may_be_changed_without_changing_the_payload(name: str) -> None:
    codec = MAKERS[name]()
    payload = codec.encode(codec.new_state(), {"t": torch.ones(3), "u": torch.ones(2)})
    before = [tensor.clone() for tensor in codec.decode(payload)]
    for tensor in codec.decode(payload):
        tensor.add_(1)
    assert all(torch.equal(tensor, old) for tensor, old in zip(codec.decode(payload), before, strict=True))


@each_codec
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_refused_by_name_and_nothing_is_remembered(name: str, bad: float) -> None:
    codec = MAKERS[name]()
    state = codec.new_state(1)
    codec.encode(state, {"fine": normal(6), "gradient of stem.weight": normal(6)})
    saved = io.BytesIO()
    torch.save(state, saved)
    tensor = torch.ones(6)
    tensor[4] = bad
    with pytest.raises(NotFinite, match=r"tensor gradient of stem\.weight holds NaN or infinity") as error:
        codec.encode(state, {"fine": normal(6), "gradient of stem.weight": tensor})
    says(error)
    saved.seek(0)
    again = torch.load(saved, weights_only=True)
    good = {"fine": normal(6, seed=3), "gradient of stem.weight": normal(6, seed=4)}
    assert codec.encode(state, good) == codec.encode(again, good)


@pytest.mark.parametrize("name", ["top-k-residual", "dgc", "1-bit"])
def test_what_accumulates_to_infinity_is_refused_by_name(name: str) -> None:
    codec = MAKERS[name]()
    state, values = codec.new_state(), torch.tensor([GREATEST, 0.9 * GREATEST, -GREATEST / 3, 0.0])

    def repeat() -> None:
        for _ in range(9):
            codec.encode(state, {"t": values})

    with pytest.raises(NotFinite, match="tensor t holds NaN or infinity"):
        repeat()


@each_codec
@pytest.mark.parametrize("dtype", [torch.int64, torch.bfloat16, torch.float16, torch.bool])
def test_a_type_that_is_not_sent_is_refused_by_name(name: str, dtype: torch.dtype) -> None:
    codec = MAKERS[name]()
    with pytest.raises(ReproError, match=r"tensor count is torch.* float32 or float64 was expected") as error:
        codec.encode(codec.new_state(), {"count": torch.ones(2).to(dtype)})
    says(error)


@each_codec
def test_a_restored_state_continues_bit_by_bit(name: str) -> None:
    """Residuals, momentum and the position in the random stream are in the state, and nowhere else."""
    codec, saved = MAKERS[name](), io.BytesIO()
    state = codec.new_state(seed=5, client=3)
    for k in range(3):
        state["progress"] = 2.0 * k
        codec.encode(state, {"t": normal(20, 5, seed=k)})
    torch.save(state, saved)
    saved.seek(0)
    again = torch.load(saved, weights_only=True)
    for k in range(3):
        torch.manual_seed(k)
        np.random.seed(k)
        assert MAKERS[name]().encode(again, {"t": normal(20, 5, seed=10 + k)}) == codec.encode(
            state, {"t": normal(20, 5, seed=10 + k)}
        )


@pytest.mark.parametrize("name", ["qsgd", "terngrad"])
def test_seed_client_and_message_each_have_their_own_randomness(name: str) -> None:
    codec, tensor = MAKERS[name](), normal(400)
    states = [codec.new_state(1, 0), codec.new_state(1, 1), codec.new_state(2, 0)]
    payloads = [codec.encode(state, {"t": tensor}) for state in states] + [codec.encode(states[0], {"t": tensor})]
    assert len(set(payloads)) == 4
    assert payloads[0] == codec.encode(codec.new_state(1, 0), {"t": tensor})


@each_codec
def test_the_global_generators_are_left_alone(name: str) -> None:
    ours, theirs = torch.get_rng_state(), np.random.get_state()[1].copy()
    send(MAKERS[name](), normal(50))
    assert torch.equal(ours, torch.get_rng_state())
    assert (theirs == np.random.get_state()[1]).all()


def test_running_statistics_are_sent_exactly_and_only_convolutions_are_sparsified() -> None:
    net = models.build("resnet18", classes=10, width=4)
    state = {name: normal(*tensor.shape, seed=k) for k, (name, tensor) in enumerate(shared_state(net).items())}
    gradients = {name if "running" in name else f"gradient of {name}": tensor for name, tensor in state.items()}
    for named in (state, gradients):
        for codec in (Int8(), Int8(affine=True), QSGD(), TernGrad(), OneBit(), DGC(), TopK(0.9), Threshold(0.1)):
            received = codec.decode(codec.encode(codec.new_state(), named))
            for (name, tensor), ours in zip(named.items(), received, strict=True):
                is_sparse = isinstance(codec, DGC | TopK | Threshold)
                left = "running" in name or (is_sparse and tensor.dim() != 4)
                assert torch.equal(ours, tensor) == left, (name, codec.name)


# A codec is one file -----------------------------------------------------------------------------------------------


def test_versions_are_those_of_the_classes():
    """``numerics`` reads the files; here they are executed."""
    for name, entry in base.REGISTERED.items():
        part = name[1:] if name.startswith("+") else f"codec_{name}"
        assert numerics.VERSIONS[part] == entry.version, name
    assert set(numerics.CODECS) == set(codecs.NAMES)
    numbers = {entry.make.number for entry in base.REGISTERED.values()}
    assert len(numbers) == len({entry.make for entry in base.REGISTERED.values()})


@pytest.fixture
def half(monkeypatch):
    """A codec that no other file knows: half of all values are sent."""
    monkeypatch.setattr(base, "REGISTERED", dict(base.REGISTERED))

    @base.register("half", version=1)
    class Half(TopK):
        number, name = 77, "half"

        def __init__(self) -> None:
            super().__init__(sparsity=0.5)

    return Half


def test_a_new_codec_trains_zipped_or_not_and_by_its_name(half):
    for name in ("half", "half+zip"):
        codec = codecs.of_run(name, "large_batch", 0.9, workers=3)
        model, optimisation = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 16), torch.nn.Flatten()).double(), 0.1
        settings = Optimisation(lambda _, lr=optimisation: lr, momentum=0.9)
        before = [p.detach().clone() for p in model.parameters()]
        optimiser = settings.of_server(model, codec)
        list(plain.large_batch(model, optimiser, toy_batches(), Exchange(codec), settings, range(2)))
        assert all(not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


def test_a_name_or_number_that_is_taken_is_refused(half):
    with pytest.raises(ValueError, match="taken"):
        base.register("half", version=2)(half)
    with pytest.raises(ValueError, match="taken"):
        base.register("other", version=1)(type("Other", (), {"number": 77}))


def test_registering_a_codec_changes_the_fingerprint_of_no_run(tmp_path, monkeypatch):
    """The file of a new codec beside today's: what runs depend on is what it was."""
    tasks = [spec for source in specs.SOURCES for spec, _ in specs.runs_and_waiting(source, "smoke", "artefact")[0]]
    before = [numerics.used_by(spec.as_dict()) for spec in tasks]
    shutil.copytree(numerics._PACKAGE / "codecs", tmp_path / "codecs")
    (tmp_path / "codecs/half.py").write_text('@register("half", version=1)\nclass Half:\n    number = 77\n')
    monkeypatch.setattr(numerics, "_PACKAGE", tmp_path)
    found = {entry["name"]: entry for entry in numerics._registered("codecs")}
    assert set(found) == set(base.REGISTERED) | {"half"}
    monkeypatch.setattr(numerics, "_CODECS", found)
    monkeypatch.setitem(numerics.VERSIONS, "codec_half", 1)
    assert [numerics.used_by(spec.as_dict()) for spec in tasks] == before
    trained = next(spec for spec in tasks if spec.method == "large_batch" and spec.kind == "train").as_dict()
    assert numerics.used_by(trained | {"codec": "half"})["codec_half"] == 1
