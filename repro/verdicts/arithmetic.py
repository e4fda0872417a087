"""The sources' own arithmetic, done again from the numbers that they print: rates, rounds, volumes, differences.

Nothing here is measured. Each ``Line`` takes inputs that a source gives (or that follow from the definition of a
network that it names), computes what follows, and says whether that is what the source says. Where no number was
published, the line gives ours and says so.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

from repro.errors import ReproError
from repro.experiments.post2 import EPOCHS, IMAGES, SPARSITY, WARM_UP
from repro.registry.labels import number
from repro.registry.published import Published, load_published
from repro.verdicts.total_data import (
    FACTORS,
    Network,
    dgc_bytes,
    mean_bytes_per_value,
    mean_density,
    meets,
    network,
    readings,
)

AGREES, DIFFERS, DEPENDS, OPEN = "agrees", "differs", "under some readings", "no number published"
LARGE_BATCH = 3072  # images, post 1
FEATURES = {"resnet18": 512, "resnet50": 2048}  # inputs of the classifier, post 2


@dataclass(frozen=True)
class Line:
    """One computation.

    Attributes:
        id: of the line, ``<source>.<what>``.
        source, place: where the numbers stand.
        question: what is computed, in words.
        working: the computation with its numbers.
        published: what the source says, or ``–``.
        computed: what follows from its inputs.
        outcome: ``agrees``, ``differs``, ``under some readings`` or ``no number published``.
        note: what the difference means, or what the line is good for.
    """

    id: str
    source: str
    place: str
    question: str
    working: str
    published: str
    computed: str
    outcome: str
    note: str = ""


def lines(root: Path = Path()) -> list[Line]:
    """Every line, by source; reads ``data/published.yaml`` and counts parameters (which imports torch).

    Raises:
        ReproError: the published file is malformed, or an artefact that a line reads is missing in it.
    """
    published = load_published(root)
    return [*_e1(), *_e2(), *_e3(), *_lb(published)]


def as_rows(found: Iterable[Line]) -> list[dict[str, str]]:
    """The lines as mappings, for JSON and CSV."""
    return [asdict(line) for line in found]


def _outcome(agrees: bool) -> str:
    return AGREES if agrees else DIFFERS


# e1 ------------------------------------------------------------------------------------------------------


def _e1() -> list[Line]:
    place = "A Preliminary Empirical Comparison, caption of Table 2"
    rounds = IMAGES / LARGE_BATCH
    full, rest = divmod(IMAGES, LARGE_BATCH)
    workers = 96
    return [
        Line(
            "e1.split", "e1", "A Preliminary Empirical Comparison", "Do the training and test images add up?",
            "50 000 + 10 000", "60K", number(50_000 + 10_000), _outcome(50_000 + 10_000 == 60_000),
        ),
        Line(
            "e1.rounds-per-epoch", "e1", place, "Rounds of large batch in an epoch",
            f"{number(IMAGES)} / {number(LARGE_BATCH)} = {full} full batches and a rest of {rest} images",
            "–", f"{number(rounds, 2)} rounds an epoch", OPEN,
            "Read with 3072 as the size of a batch. Read as a number of batches it would leave "
            f"{number(IMAGES / LARGE_BATCH, 1)} images a batch.",
        ),
        Line(
            "e1.local-batch", "e1", "A Preliminary Empirical Comparison", "Images of one worker in a large batch",
            f"{number(LARGE_BATCH)} / {workers}", "–", f"{LARGE_BATCH // workers} images",
            OPEN, "A whole number, which supports reading the 96 virtual CPUs as 96 workers.",
        ),
        Line(
            "e1.break-even", "e1", place, "Epochs that federated learning may need for every epoch of large batch",
            f"one round an epoch against {number(rounds, 2)}", "–",
            f"up to {number(rounds, 2)} times as many epochs cost no more rounds", OPEN,
            "So e1.c3 (fewer rounds) is compatible with e1.c2 (far more epochs).",
        ),
    ]  # fmt: skip


# e2 ------------------------------------------------------------------------------------------------------


def _e2() -> list[Line]:
    place = "Communication Effectiveness"
    nets = {
        (model, classes, stem): network(model, classes, stem)
        for model, classes, stem in product(FEATURES, FACTORS, ("cifar", "imagenet"))
    }
    names = {"resnet18": "ResNet18", "resnet50": "ResNet50"}
    found = [
        Line(
            "e2.f2i", "e2", "Gradient quantization", "float32 to int8: how much less is sent",
            "4 bytes / 1 byte; with a 4-byte scale for each of the "
            f"{(net := nets['resnet18', 10, 'cifar']).tensors} tensors of ResNet18: "
            f"4 × {number(net.parameters)} / ({number(net.parameters)} + 4 × {net.tensors})",
            "4 times", f"{4 * net.parameters / (net.parameters + 4 * net.tensors):.4f} times",
            _outcome(round(4 * net.parameters / (net.parameters + 4 * net.tensors)) == 4),
            "Measured on real payloads: e2.table5.",
        ),
        Line(
            "e2.zip", "e2", "Gradient quantization", "int8, then zip that saves 50 %: bytes a parameter",
            "1 × (1 − 0.5)", "–", "0.5 bytes, 8 times less than float32", OPEN, "Measured: e2.c2, e2.table5.",
        ),
    ]  # fmt: skip
    for model, classes in product(FEATURES, FACTORS):
        net, width = nets[model, classes, "cifar"], FEATURES[model]
        share = (width * classes + classes) / net.other
        found.append(
            Line(
                f"e2.classifier-{model}-{classes}", "e2", f"{place}, table of model sizes",
                f"Weights of the classifier of {names[model]} with {number(classes)} classes",
                f"{width} × {classes}", f"{width} × classes", number(width * classes),
                _outcome(_classifier_weights(model, classes) == width * classes),
                f"Counted from the definition: {number(net.parameters)} parameters, {number(net.convolutional)} in "
                f"convolutions, {number(net.other)} others (classifier with bias: {number(100 * share)} % of them). "
                "The sizes that the post printed are lost.",
            )
        )  # fmt: skip
    for model, classes, cost in product(FEATURES, FACTORS, (6, 8)):
        net = nets[model, classes, "imagenet"]
        sent = dgc_bytes(net, cost)
        found.append(
            Line(
                f"e2.dgc-{model}-{classes}-{cost}", "e2", f"{place}, table of compression rates",
                f"DGC on {names[model]}, {number(classes)} classes, {cost} bytes a kept value: compression rate",
                f"4 × {number(net.parameters)} / (0.001 × {number(net.convolutional)} × {cost} + 4 × "
                f"{number(net.other)})",
                "–", f"{number(4 * net.parameters / sent, 1)} times", OPEN,
                "ImageNet stem. With 1000 classes the dense classifier takes most of the gain away (e2.c12)."
                if classes == 1000 else "ImageNet stem.",
            )
        )  # fmt: skip
    densities = [1 - sparsity for sparsity in WARM_UP]
    later = (EPOCHS["large_batch"] - len(WARM_UP)) * (1 - SPARSITY)
    mean = (sum(densities) + later) / EPOCHS["large_batch"]
    found += [
        Line(
            "e2.warm-up", "e2", place, "What the four warm-up epochs add to the sparse bytes of 100 epochs",
            f"(0.25 + 0.0625 + 0.015625 + 0.004 + 96 × 0.001) / 100 = {100 * mean:.3f} % sent on average, "
            "0.1 % without",
            "–", f"{mean / (1 - SPARSITY):.2f} times; {100 * sum(densities) / (sum(densities) + later):.1f} % of all",
            OPEN, "Whether the post counts them decides its factors; see the readings below.",
        ),
        Line(
            "e2.epochs", "e2", "The Experiments", "Does large batch need fewer epochs than federated learning?",
            f"{EPOCHS['large_batch']} against {EPOCHS['federated']}", "requires less epochs",
            f"{EPOCHS['federated'] / EPOCHS['large_batch']:g} times fewer",
            _outcome(EPOCHS["large_batch"] < EPOCHS["federated"]),
            "By the lengths of the two trainings that the post reports.",
        ),
        *_factor_lines(nets),
    ]  # fmt: skip
    return found


def _classifier_weights(model: str, classes: int) -> int:
    from repro.models import sizes

    return sizes.count(model, classes).classifier - classes


def _factor_lines(nets: Mapping[tuple[str, int, str], Network]) -> list[Line]:
    place = "Communication Effectiveness, table of total data sent and last paragraphs"
    found = []
    for model, name in (("resnet18", "ResNet18"), ("resnet50", "ResNet50")):
        tried = [(r, r.factors({c: nets[model, c, r.stem] for c in FACTORS})) for r in readings()]
        met = [(r, f) for r, f in tried if meets(f)]
        span = {c: (min(f[c] for _, f in tried), max(f[c] for _, f in tried)) for c in FACTORS}
        words = "; ".join(
            f"{number(r.images)} images, {r.bytes_per_value} B a kept value, {r.bytes_per_parameter:g} B a parameter, "
            f"{'with' if r.warm_up else 'without'} warm-up, {r.stem} stem: {f[10]:.2f} and {f[1000]:.2f}"
            for r, f in met
        )
        found.append(
            Line(
                f"e2.factors-{model}", "e2", place,
                f"Do 5 times (10 classes) and 3 times (1000 classes) follow for {name}?",
                f"{len(tried)} readings: images a round, coding, zip, warm-up, stem. They give "
                f"{span[10][0]:.2f} to {span[10][1]:.2f} and {span[1000][0]:.2f} to {span[1000][1]:.2f}",
                "5 times and 3 times", f"both in {len(met)} of {len(tried)} readings", DEPENDS if met else DIFFERS,
                f"Met by: {words}." if met else "No reading gives both: the published factors are not this network's.",
            )
        )  # fmt: skip
    for stem in ("cifar", "imagenet"):
        needed = mean_bytes_per_value({c: nets["resnet18", c, stem] for c in FACTORS})
        found.append(
            Line(
                f"e2.bytes-per-value-{stem}", "e2", place,
                f"Bytes a kept value that both factors need together (ResNet18, {stem} stem)",
                "product of the factors, in which batch size and F2I cancel: 5 × 3 = 15", "–",
                f"{needed:.1f} bytes without warm-up; {needed * (1 - SPARSITY) / mean_density():.2f} with it", OPEN,
                "Between the usual 6 and 8 bytes only if warm-up is left out; counted, values would have to be coded "
                "in less than their own 4 bytes.",
            )
        )  # fmt: skip
    return found


# e3 ------------------------------------------------------------------------------------------------------


def _e3() -> list[Line]:
    local = 5000 / 32
    return [
        Line(
            "e3.devices", "e3", "Federated Learning", "Do 10 devices with 5000 images hold the training set?",
            "10 × 5000", "10 devices, 5000 images each", number(50_000), _outcome(IMAGES == 10 * 5000),
        ),
        Line(
            "e3.local-batch", "e3", "The Experiments", "Images of one device in a global batch of 320",
            "320 / 10", "32 (stated for federated learning)", f"{320 // 10}", _outcome(320 // 10 == 32),
        ),
        Line(
            "e3.labels", "e3", "The Experiments", "Devices that hold each class, with two classes a device",
            "10 × 2 / 10 classes", "–", "2 devices a class", OPEN,
        ),
        Line(
            "e3.chance", "e3", "The Experiments", "Random predictions on CIFAR-10", "1 / 10 classes", "random",
            "10 %", OPEN, "What e3.c1 is judged by.",
        ),
        Line(
            "e3.warm-up-1k", "e3", "Large batch training", "Is 0.8 at batch 1k the linear scaling of 0.1 at 128?",
            "0.1 × 1024 / 128", "0.8", f"{0.1 * 1024 / 128:g}", _outcome(math.isclose(0.1 * 1024 / 128, 0.8)),
            "With 1k read as 1024.",
        ),
        Line(
            "e3.warm-up-2k", "e3", "Large batch training", "Is 1.6 at batch 2k the linear scaling of 0.1 at 128?",
            "0.1 × 2048 / 128", "1.6", f"{0.1 * 2048 / 128:g}", _outcome(math.isclose(0.1 * 2048 / 128, 1.6)),
            "With 2k read as 2048.",
        ),
        Line(
            "e3.synchronisation", "e3", "Federated Learning", "Which share of a local epoch 10 and 150 batches are",
            f"5000 / 32 = {local:g} batches an epoch", "–", f"{10 / local:.3f} and {150 / local:.2f} epochs", OPEN,
            "So every 150 batches is once per epoch, nearly, as in posts 1 and 2.",
        ),
    ]  # fmt: skip


# lb ------------------------------------------------------------------------------------------------------


def _rows(published: Published, artefact: str) -> list[tuple[str, str, float, float]]:
    """(model, split, first, second) of the published table ``artefact``."""
    item = next((a for a in published.artefacts if a.id == artefact), None)
    if item is None or not isinstance(item.published, Mapping) or "rows" not in item.published:
        raise ReproError(f"data/published.yaml: {artefact}: rows of the table were expected; restore them from git")
    return [(str(r[0]), str(r[2]), float(r[3]), float(r[4])) for r in item.published["rows"]]


def _lb(published: Published) -> list[Line]:
    first, second = _rows(published, "lb.table1"), _rows(published, "lb.table2")
    found = [*_table_lines(first, second), *_step_up_lines(published)]
    found += [
        Line(
            "lb.caltech-labels", "lb", "Section II-A", "Labels that 10 clients with 10 labels each can hold",
            "10 × 10", "CalTech-101 (101 classes)", "100", DIFFERS, "At least one class is on no client.",
        ),
        Line(
            "lb.constant-factor", "lb", "Section III-B, Equation 6",
            "Is a factor X that is always on the same as learning rate × X with weight decay / X?",
            "5 steps of momentum SGD on a line, X = 4: "
            f"{_momentum_sgd(0.1, 0.01, 4):.10f} against {_momentum_sgd(0.4, 0.0025, 1):.10f}",
            "–", "the same", OPEN if _same_as_rate() else DIFFERS,
            "So a learning-rate sweep is a control that every step-up figure needs.",
        ),
        _occupancy_line(),
    ]  # fmt: skip
    return found


def _table_lines(first: list[tuple[str, str, float, float]], second: list[tuple[str, str, float, float]]) -> list[Line]:
    def worked(pairs: Iterable[tuple[str, float]]) -> str:
        return "; ".join(f"{name} {number(value, 2, sign=True)}" for name, value in pairs)

    gaps = [(f"{model} {split}", bsp - fa) for model, split, bsp, fa in first]
    iid = {model: (bsp, fa) for model, split, bsp, fa in first if split == "iid"}
    skewed = {model: (bsp, fa) for model, split, bsp, fa in first if split == "non-iid"}
    lost = [(model, iid[model][0] - skewed[model][0], iid[model][1] - skewed[model][1]) for model in iid]
    rarer = [(f"{model} {split}", often - seldom) for model, split, often, seldom in second]
    beyond = [
        (f"{model} {split}", fa - often) for (model, split, _, fa), (_, _, often, _) in zip(first, second, strict=True)
    ]
    no_batchnorm = [(model, bsp) for model, bsp, _ in lost if not model.startswith("ResNet")]
    wins, dearer = sum(g > 0 for _, g in gaps), sum(fa > bsp > 0 for _, bsp, fa in lost)
    better = sum(g > 0 for _, g in rarer)
    return [
        Line(
            "lb.bsp-over-fa", "lb", "Section II-A, Table I", "BSP minus FA, in points, row by row", worked(gaps),
            "BSP is better", f"in {wins} of {len(gaps)} rows", _outcome(wins == len(gaps)),
        ),
        Line(
            "lb.cost-of-skew", "lb", "Section II-A, Table I", "IID minus non-IID, in points: BSP and FA",
            "; ".join(f"{model} {number(bsp, 2)} and {number(fa, 2)}" for model, bsp, fa in lost),
            "FA loses more", f"in {dearer} of {len(lost)} pairs", _outcome(dearer == len(lost)),
        ),
        Line(
            "lb.frequency", "lb", "Section II-A, Table II", "Every 250 minus every 1000 iterations, in points",
            worked(rarer), "more often is better", f"in {better} of {len(rarer)} rows", _outcome(better == len(rarer)),
            "AlexNet non-IID is the exception.",
        ),
        Line(
            "lb.epoch-against-250", "lb", "Section II-A, Tables I and II",
            "Once per epoch (Table I) minus every 250 iterations (Table II), in points", worked(beyond),
            "more often is better", f"in {sum(g > 0 for _, g in beyond)} of {len(beyond)} rows",
            DEPENDS,
            "The local batch is not stated, and on it depends which of the two is more often: with 5000 images a "
            "client an epoch is 157 iterations of 32 images, more often than every 250, but more than 250 "
            "iterations below a batch of 20. AlexNet's data set is smaller, so that its epoch is shorter at any batch.",
        ),
        Line(
            "lb.no-batchnorm", "lb", "Section II-A, Table I", "BSP without BatchNorm: IID minus non-IID, in points",
            "; ".join(f"{model} {number(value, 2)}" for model, value in no_batchnorm), "–",
            "0 expected, apart from seeds", DIFFERS if any(abs(v) > 2 for _, v in no_batchnorm) else AGREES,
            "Without BatchNorm the average of the clients' gradients is the gradient of the union of their batches, "
            "whatever labels each holds. AlexNet fits that, VGG11 does not.",
        ),
    ]  # fmt: skip


def _points(published: Published, statement: str, *names: str) -> list[float]:
    """Published numbers of one statement, by name."""
    item = next((s for s in published.statements if s.id == statement), None)
    if item is None or not isinstance(item.published, Mapping) or not set(names) <= set(item.published):
        raise ReproError(f"data/published.yaml: {statement}: {', '.join(names)} were expected; restore them from git")
    return [float(item.published[name]) for name in names]


def _step_up_lines(published: Published) -> list[Line]:
    over_one, over_small = _points(published, "lb.c12", "over_factor_1", "over_batch_32")
    below_one, above_small = _points(published, "lb.c18", "below_factor_1", "above_batch_64")
    alone = over_small - over_one
    return [
        Line(
            "lb.resnet50-baseline", "lb", "Abstract; Section III-B, Figure 7; conclusion",
            "ResNet50: how far X = 1 (batch 1024, no step-up) is above batch 32",
            f"{over_small} − {over_one}", "–", f"{alone:.2f} points, {alone / over_small:.0%} of the gain", OPEN,
            "Most of the gain over small batches comes without any step-up.",
        ),
        Line(
            "lb.resnet50-samples", "lb", "Section III-B", "Samples that batch 1024 sees for each of batch 32",
            "1024 / 32", "same iterations", f"{1024 // 32} times as many", OPEN,
            "Equal iterations are not equal samples.",
        ),
        Line(
            "lb.vgg11-baseline", "lb", "Abstract; conclusion", "VGG11: how far X = 1 is above batch 64",
            f"{above_small} + {below_one}", "–", f"{above_small + below_one:.2f} points", OPEN,
            "X = 8 takes part of this away again; it is not the best X, although the abstract gives its 3.74 points.",
        ),
        Line(
            "lb.vgg11-samples", "lb", "Section III-B", "Samples that batch 1024 sees for each of batch 64",
            "1024 / 64", "same iterations", f"{1024 // 64} times as many", OPEN,
        ),
    ]  # fmt: skip


def _momentum_sgd(lr: float, weight_decay: float, factor: float, steps: int = 5) -> float:
    """Weight after ``steps`` steps from 1 with momentum 0.9, loss gradient 0.3 w - 0.1 t, scaled by ``factor``.

    >>> round(_momentum_sgd(0.1, 0.01, 4), 10)
    0.4716714053
    """
    weight, velocity = 1.0, 0.0
    for step in range(steps):
        gradient = factor * (0.3 * weight - 0.1 * step) + weight_decay * weight
        velocity = 0.9 * velocity + gradient
        weight -= lr * velocity
    return weight


def _same_as_rate() -> bool:
    return math.isclose(_momentum_sgd(0.1, 0.01, 4), _momentum_sgd(0.4, 0.0025, 1), rel_tol=1e-12)


def _share_at_least(threshold: float, spread: float) -> float:
    """P(|r - 1| >= threshold) for a ratio r of successive squared norms with log r normal, mean 0, sd ``spread``."""

    def below(x: float) -> float:
        return 0.5 * (1 + math.erf(math.log(x) / (spread * math.sqrt(2))))

    return 1 - below(1 + threshold) + (below(1 - threshold) if threshold < 1 else 0.0)


def _spread_for_half(threshold: float) -> float:
    """Spread at which the threshold is passed in half of the iterations (bisection)."""
    low, high = 0.01, 10.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _share_at_least(threshold, middle) < 0.5 else (low, middle)
    return low


def _occupancy_line() -> Line:
    least, most = _spread_for_half(0.5), _spread_for_half(0.8)
    shares = "; ".join(
        f"spread {s:g}: {100 * _share_at_least(0.5, s):.0f} % and {100 * _share_at_least(0.8, s):.0f} %"
        for s in (0.3, 0.5, 1.0, 1.5)
    )
    return Line(
        "lb.occupancy", "lb", "Section III-B, Figures 7 and 8",
        "Iterations with a gradient change of at least 0.5, and of at least 0.8", shares,
        "most at 0.5, few at 0.8", f"possible for a spread between {least:.2f} and {most:.2f}",
        AGREES if least < most else DIFFERS,
        "If the log ratio of successive squared gradient norms is normal. Under the other reading (X where the change "
        "is below the threshold) a higher threshold could only raise the share of X, so the figures show the text's "
        "rule, not Equation 6.",
    )  # fmt: skip
