"""One run with every setting resolved: a flat description, and the views of it that each part of the package reads.

``Spec`` is the sum of its views: a function that needs the data of a run takes a ``Data``, and any spec is one. Records
keep the flat mapping. The types give the range of every setting; ``repro.registry.source_files`` reads files by them.
"""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from annotated_types import Ge, Le, MinLen

from repro.experiments.sizes import apportion

SOURCES = ("e1", "e2", "e3", "lb")
PROFILES = ("smoke", "study", "paper")
GROUPS = ("artefact", "grid", "control")
Profile = Literal["smoke", "study", "paper"]
Network = Literal["resnet18", "resnet50", "vgg11", "alexnet", "vit", "cnn"]
Norm = Literal["batch", "group", "layer", "instance", "none", "fixup"]
TORCHVISION = "torchvision:"
"""Before the name of a classification network of torchvision, which is a model as well."""
Tracked = Literal[
    "gradient_norm", "per_class", "batch_statistics", "training_images", "training_sample", "sharpness"
]  # fmt: skip
TRACKED: tuple[str, ...] = get_args(Tracked)

HELD_OUT_IMAGES = 5000
"""At most a fifth of the images of a data set."""

Count = Annotated[int, Ge(1)]
Counts = Annotated[list[Count], MinLen(1)]
Pixels = Annotated[int, Ge(4), Le(1024)]
Width = Annotated[int, Ge(1), Le(1024)]
Depth = Annotated[int, Ge(1), Le(1000)]
Blocks = Annotated[int, Ge(3)]
FromZero = Annotated[int, Ge(0)]
Precision = Literal["fp64", "fp32", "bf16"]
Fraction = Annotated[float, Ge(0), Le(1)]


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Which run it is.

    Attributes:
        run, source, group, kind, profile: identity; ``group`` is ``artefact`` or ``control``.
        once: executed with the profile's first seed only.
        law: which law a run of kind ``law`` executes.
        expects_divergence: a non-finite loss is a possible result here and does not fail a sweep.
        diverges_above: a training loss above this counts as divergence, besides one that is not finite.
    """

    run: str
    source: str
    group: Literal["artefact", "control"]
    kind: Literal["train", "law", "payloads", "measure", "gradients", "teacher"]
    profile: Profile
    once: bool = False
    law: Literal[
        "union_batch",
        "normalisation",
        "label_split",
        "star_and_ring",
        "epoch_traffic",
        "slowest_device",
        "lost_worker",
    ] = "union_batch"
    expects_divergence: bool
    diverges_above: Annotated[float, Ge(0)] | None = None


@dataclass(frozen=True, kw_only=True)
class Data:
    """What it trains and is evaluated on. Sizes are counts of images; ``image_size`` is in pixels.

    Attributes:
        evaluate_on: ``test``, or ``held_out``: 5 000 training images that no grid run trains on.
        evaluate_every: epochs between evaluations; the last epoch is always evaluated.
        evaluate_at: rounds after which the model is evaluated besides; those after the last do not take place.
        final_test_images: images that the evaluations of the last tenth of training look at, of which the first are the
            ``test_images`` of the earlier ones; None: all look at those.
        final_evaluations: how many evaluations the last tenth of training has at least, the end included; where
            ``evaluate_every`` gives fewer, others are added, in even steps, which no schedule observes. None: none.
        track: what a run records besides losses and accuracies: ``gradient_norm`` (L2 norm of the averaged gradient,
            every round), ``per_class`` (accuracy of each class at every evaluation; in federated averaging also that
            of each client's model before the last aggregation), ``batch_statistics`` (how far the statistics of each
            worker's batch lie from those of all workers, at the end), ``training_images`` (accuracy of the last shared
            model on its training images, evaluated as test images are), ``training_sample`` (accuracy and mean loss on
            the first 2 000 training images, likewise, at every evaluation), ``sharpness`` (largest eigenvalue of the
            Hessian of the training loss, at the end).
    """

    dataset: str
    train_images: Count
    test_images: Count
    image_size: Pixels
    augment: bool
    evaluate_on: Literal["test", "held_out"]
    evaluate_every: Count
    evaluate_at: list[Count] | None = None
    final_test_images: Count | None = None
    final_evaluations: Count | None = None
    track: list[Tracked] | None = None


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The network.

    Attributes:
        model: a network of this package, or ``torchvision:NAME``; whether torchvision has the name is known when the
            run begins, because that is where torchvision is imported.
        width: channels of the first stage (at most 1024); None, as ``norm``, for networks of torchvision, whose own
            both are.
        norm: ``batch``, ``group``, ``layer`` or ``instance`` normalisation, ``none``, or ``fixup``: no normalisation,
            but the initialisation and the scalar biases and multipliers of Fixup.
        last_scale_zero: group, layer and instance normalisation start with the last scale of each block at zero.
        classes: outputs of the classifier, or None for as many as the data set has.
        patch, depth: of a vision transformer, pixels of a patch and number of blocks; its own when None.
        precision: ``fp64``, ``fp32`` or ``bf16`` (float32 weights, bfloat16 convolutions).
    """

    model: str
    width: Width | None
    norm: Norm | None
    last_scale_zero: bool = True
    classes: Annotated[int, Ge(2), Le(100_000)] | None = None
    patch: Count | None = None
    depth: Depth | None = None
    precision: Precision


@dataclass(frozen=True, kw_only=True)
class Clients:
    """Who holds which images.

    Attributes:
        partition, labels_per_client, dirichlet_alpha: how images are spread over workers.
        drop_uncovered: with ``labels``, leave out the images of labels that no worker has.
        clients_wait: in large-batch training a worker that has finished its epoch waits for the others. Where shards
            differ in size, false lets it go on with its next one, so that all take part in every step; an epoch, and
            the length of rounds of ``local_steps``, is then counted by the mean shard.
        batch_shares: relative speeds, one for each worker of large-batch training; None: equal local batches. The union
            of ``workers`` x ``local_batch`` images is shared in proportion to them (``local_batches``), and so are all
            images, so that workers end an epoch together. Gradients are weighted by images, as always.
    """

    workers: Count
    partition: Literal["iid", "labels", "dirichlet"]
    labels_per_client: Count | None
    dirichlet_alpha: Annotated[float, Ge(1e-6)] | None
    drop_uncovered: bool = False
    clients_wait: bool = True
    local_batch: Count
    batch_shares: list[int | float] | None = None

    @property
    def local_batches(self) -> list[int] | None:
        """Images in the local batch of each worker, where these differ; their sum is that of equal ones."""
        return apportion(self.workers * self.local_batch, self.batch_shares) if self.batch_shares else None


@dataclass(frozen=True, kw_only=True)
class Training:
    """How it is optimised.

    Attributes:
        method: ``central`` (one client, every step counts as a round), ``large_batch`` (BSP: gradients are averaged
            every step) or ``federated`` (FedAvg: model deltas are averaged every ``local_epochs``).
        local_steps: local steps in a round of federated averaging (H), instead of ``local_epochs``. Training ends with
            the last whole round that fits its epochs; if none does, all of it is one round; in a run of kind
            ``payloads``, steps over which a change of the weights is measured.
        schedule: learning-rate schedule in the terms of ``repro.experiments.schedules.build``, its ``lr`` included.
        lr_grid: the grid that chose the learning rate, or None where the spec gives it.
        local_momentum: in federated averaging, momentum of local SGD when a round begins: ``restart``: zero; ``keep``:
            what the client had at the end of its last one; ``average``: the average of what all had then, which they
            send uncompressed with their change and receive with the shared model.
        weights: in federated averaging, clients count by the ``images`` of their shard, or ``equal``.
        stacked: in federated averaging, how many clients train together as one network (``repro.training.stacked``),
            to the same result but for round-off; it pays for few channels and small local batches. None: they train one
            after the other.
        step_up: paper lb's step-up method, in the terms of ``repro.experiments.stepup.StepUp``; None: gradients stay as
            they are. ``share_of`` instead of ``share`` names another run: on average as often as that one did with the
            same seed.
        remedy: what is changed in central training to narrow the generalisation gap of a large batch
            (``repro.training.remedies``); None: nothing.
        remedy_options: options of the remedy by name (the arguments of its class); None: its defaults.
    """

    method: Literal["central", "large_batch", "federated"]
    epochs: Count
    local_epochs: Count
    local_steps: Count | None = None
    schedule: dict[str, Any]
    lr_grid: str | None
    momentum: Annotated[float, Ge(0), Le(0.9999)]
    weight_decay: Annotated[float, Ge(0)]
    local_momentum: Literal["restart", "keep", "average"] = "restart"
    weights: Literal["images", "equal"] = "images"
    stacked: Annotated[int, Ge(2)] | None = None
    step_up: dict[str, Any] | None = None
    remedy: str | None = None
    remedy_options: dict[str, int | float | str | list[int | float]] | None = None


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """What workers send and receive.

    Attributes:
        codec: what workers send is compressed by this codec (``repro.codecs``), to which ``+zip`` may be added. In
            large-batch training ``dgc`` takes ``momentum`` and ``weight_decay`` from the server: workers add the decay
            to their gradient, and then correct the momentum.
        codec_options: options of the codec by name (the arguments of its class), for example ``clip`` of ``dgc``, the
            threshold for the norm of the global gradient, or ``threshold`` of ``threshold``; None: its defaults.
        sparsity_warmup: share of the epochs in which DGC's sparsity rises (post 2: 4 of 100 epochs).
        quantised_weights: the shared model itself is kept in int8 during training.
        buffers: what happens to BatchNorm's running statistics: ``average`` sends and averages them every round;
            ``local`` leaves them on each worker, and the shared model is evaluated with each worker's in turn (mean);
            ``drop`` keeps none, and an evaluation batch is normalised by its own statistics.
    """

    codec: str
    codec_options: dict[str, int | float | list[int | float]] | None = None
    sparsity_warmup: Fraction = 0.0
    quantised_weights: bool = False
    buffers: Literal["average", "local", "drop"]


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What runs of the kinds ``payloads`` and ``measure`` go through.

    Attributes:
        measured_steps: steps of training at which a run of kind ``payloads`` encodes what would be sent.
        memory_steps: steps before each of these that codecs with a memory see; None: all.
        batch_sizes: batch sizes that a run of kind ``measure`` goes through, ascending.
        peak_sizes: those of them whose peak memory is watched in a child process.
        blocks, repetitions: how often a measurement goes through all sizes, and how many steps it times each time;
            0 repetitions: memory only.
    """

    measured_steps: Counts | None = None
    memory_steps: FromZero | None = None
    batch_sizes: list[Count] | None = None
    peak_sizes: list[Count] | None = None
    blocks: Blocks = 0
    repetitions: FromZero = 0


@dataclass(frozen=True, kw_only=True)
class Spec(Identity, Data, Architecture, Clients, Training, Exchange, Measurement):
    """One run with every setting resolved."""

    def as_dict(self) -> dict[str, Any]:
        """The spec as a plain mapping, as it stands in a record; ``lr`` is repeated at the top for readers.

        A field added later gets a default that keeps today's meaning. It is left out here while it has that default,
        so that the fingerprints of older records stay valid.
        """
        given = ((field.name, getattr(self, field.name), field.default) for field in dataclasses.fields(self))
        plain = {name: copy.deepcopy(value) for name, value, neutral in given if value != neutral}
        return plain | {"lr": self.schedule["lr"]}
