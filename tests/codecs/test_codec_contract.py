"""What every registered codec promises, alone and zipped; and that a codec is one file."""

import math
import shutil

import pytest
import torch
from toy import toy_batches

from repro import codecs
from repro.codecs import Expected, TopK, base
from repro.errors import NotFinite, ReproError
from repro.experiments import numerics
from repro.randomness import generator
from repro.registry import specs
from repro.training import plain
from repro.training.exchange import Exchange
from repro.training.steps import Optimisation

WRAPPERS = [name for name in base.REGISTERED if name.startswith("+")]
NEEDED = {"threshold": {"threshold": 0.5}}
every_codec = pytest.mark.parametrize("name", [name + w for name in codecs.NAMES for w in ("", *WRAPPERS)])


def build(name):
    return codecs.build(name, **NEEDED.get(name.partition("+")[0], {}))


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


@every_codec
def test_what_arrives_has_the_types_and_shapes_of_what_was_sent_and_is_finite(name):
    codec, sent = build(name), message()
    payload = codec.encode(codec.new_state(), sent)
    assert isinstance(payload, bytes)
    received = codec.decode(payload, Expected.like(sent.values()))
    assert [(t.dtype, t.shape) for t in received] == [(t.dtype, t.shape) for t in sent.values()]
    assert all(bool(torch.isfinite(tensor).all()) for tensor in received)
    assert len(payload) <= Expected.like(sent.values()).payload


@every_codec
def test_running_statistics_and_tensors_sent_are_left_as_they_are(name):
    codec, sent = build(name), message()
    before = {key: tensor.clone() for key, tensor in sent.items()}
    received = codec.decode(codec.encode(codec.new_state(), sent))
    assert all(torch.equal(sent[key], before[key]) for key in sent)
    assert torch.equal(received[list(sent).index("norm.running_mean")], before["norm.running_mean"])


@every_codec
def test_equal_memory_sends_equal_bytes(name):
    codec = build(name)
    states = codec.new_state(3, 1), codec.new_state(3, 1)
    for seed in range(3):
        first, second = (codec.encode(state, message(seed)) for state in states)
        assert first == second
    assert states[0]["client"] == 1


@every_codec
def test_fixed_size_means_exact_and_of_a_length_that_shapes_decide(name):
    codec = build(name)
    lengths = {len(codec.encode(codec.new_state(), message(seed))) for seed in range(3)}
    exact = all(torch.equal(a, b) for a, b in zip(codec.decode(codec.encode(codec.new_state(), message())),
                                                  message().values(), strict=True))  # fmt: skip
    if codec.fixed_size:
        assert exact
        assert len(lengths) == 1


@every_codec
def test_damage_is_refused(name):
    codec = build(name)
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


@every_codec
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_refused_and_the_memory_stays(name, value):
    codec, sent = build(name), message()
    sent["conv.weight"][0, 0, 0, 0] = value
    state = codec.new_state()
    with pytest.raises(NotFinite, match=r"conv\.weight"):
        codec.encode(state, sent)
    assert (state["messages"], state["memory"]) == (0, {})


@pytest.mark.parametrize("name", codecs.NAMES)
def test_payloads_of_another_number_are_refused(name):
    payload = build(name).encode(build(name).new_state(), message())
    for other in codecs.NAMES:
        if build(other).number != build(name).number:
            with pytest.raises(ReproError, match="decode it with the codec that made it"):
                build(other).decode(payload)


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
