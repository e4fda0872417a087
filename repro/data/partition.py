"""Labels -> one index array per client: IID, k labels per client, Dirichlet.

Every function takes ``labels``, shape (images,), integers 0..classes-1, and returns a list of ``clients``
shards. A shard is an int64 array of indices into ``labels`` in ascending order; the order inside a shard
carries no information, so shuffle it every epoch. Before it is returned, every partition passes `check`: all
images (or, with ``drop_uncovered``, all images of the covered labels) are used exactly once and no client is
empty. Whatever cannot be met raises `ReproError` here, before training. Randomness comes from the numpy
Generator passed in, and every loop is bounded.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from repro.errors import ReproError
from repro.experiments.sizes import shards_of_batches

Indices = NDArray[np.int64]

KINDS = ("iid", "labels", "dirichlet")


def make(
    kind: str,
    labels: NDArray[np.integer],
    clients: int,
    rng: np.random.Generator,
    *,
    labels_per_client: int | None = None,
    alpha: float | None = None,
    drop_uncovered: bool = False,
    batches: Sequence[int] | None = None,
) -> list[Indices]:
    """Partition ``labels`` (images,) by the method a spec names: "iid", "labels" or "dirichlet".

    ``batches``: local batches of the clients, where they differ; shards are then in proportion (``shards_of_batches``).

    Raises ReproError for an unknown kind, and for a setting that the kind needs and lacks or has and ignores.

    >>> [len(shard) for shard in make("iid", np.arange(10) % 2, 4, np.random.default_rng(0))]
    [3, 3, 2, 2]
    """
    if kind not in KINDS:
        raise ReproError(f"unknown partition {kind!r}: expected one of {', '.join(KINDS)}; correct the spec")
    for name, given, owner in (
        ("labels_per_client", labels_per_client is not None, "labels"),
        ("alpha", alpha is not None, "dirichlet"),
        ("drop_uncovered", drop_uncovered, "labels"),
        ("batches", batches is not None, "iid"),
    ):
        if given and kind != owner:
            raise ReproError(f"{name} has no meaning for the partition {kind!r}: only {owner!r} takes it; remove it")
    if kind == "labels":
        if labels_per_client is None:
            raise ReproError("the partition 'labels' needs labels_per_client: expected an integer >= 1; add it")
        return by_labels(labels, clients, labels_per_client, rng, drop_uncovered=drop_uncovered)
    if kind == "dirichlet":
        if alpha is None:
            raise ReproError("the partition 'dirichlet' needs alpha: expected a number > 0; add it")
        return dirichlet(labels, clients, alpha, rng)
    return iid(labels, clients, rng, batches)


def iid(
    labels: NDArray[np.integer], clients: int, rng: np.random.Generator, batches: Sequence[int] | None = None
) -> list[Indices]:
    """Shuffle all images of ``labels`` (images,) once and cut them into ``clients`` parts.

    Returns ``clients`` shards whose sizes differ by at most one, or, with ``batches`` (local batch of each client),
    those of ``shards_of_batches``. Source: McMahan et al. 2017, section 3.
    Raises ReproError if a client would get no image.
    """
    labels = _validated(labels, clients)
    order = rng.permutation(labels.size).astype(np.int64)
    if batches is None:
        return _checked(np.array_split(order, clients), labels)
    return _checked(np.split(order, np.cumsum(shards_of_batches(labels.size, batches))[:-1]), labels)


def by_labels(
    labels: NDArray[np.integer],
    clients: int,
    labels_per_client: int,
    rng: np.random.Generator,
    *,
    drop_uncovered: bool = False,
) -> list[Indices]:
    """Give every client images of exactly ``labels_per_client`` distinct labels.

    ``labels`` has shape (images,); returns ``clients`` shards. Client r takes the block of labels
    r*k..r*k+k-1 (Tyagi's published code) while clients * k <= classes; beyond that the blocks overlap and a
    label is split over its clients. Which labels a client holds depends on the label counts alone; ``rng``
    decides which images. Sizes are as equal as that choice of labels allows.

    Labels that nobody can hold (clients * k < classes; CalTech-101 on 10 clients of 10 labels leaves one) are
    an error unless ``drop_uncovered``: then their images, the highest labels, are left out.
    Raises ReproError if no partition of this kind exists: k > classes, labels left uncovered, or fewer images
    than the clients' labels need.

    >>> labels = np.repeat(np.arange(10), 50)
    >>> shards = by_labels(labels, 8, 2, np.random.default_rng(0))
    >>> [sorted(set(labels[shard].tolist())) for shard in shards[:4]]
    [[0, 1], [1, 2], [2, 3], [3, 4]]
    >>> sorted(len(shard) for shard in shards)
    [62, 62, 62, 62, 63, 63, 63, 63]
    """
    labels = _validated(labels, clients)
    _positive_integer("labels_per_client", labels_per_client)
    images = _images_per_class(labels)
    if labels_per_client > images.size:
        raise ReproError(
            f"labels_per_client is {labels_per_client}: expected at most the {images.size} classes; lower it"
        )
    covered = min(images.size, clients * labels_per_client)
    if covered < images.size and not drop_uncovered:
        raise ReproError(
            f"{clients} clients of {labels_per_client} labels cover {covered} of {images.size} classes:"
            " expected all; add clients or labels per client, or set drop_uncovered to leave the others out"
        )
    shares = _equalised(images[:covered], _holders(images[:covered], clients, labels_per_client))
    return _checked(
        _deal(labels, shares, rng), labels, labels_per_client=labels_per_client, drop_uncovered=drop_uncovered
    )


def dirichlet(
    labels: NDArray[np.integer],
    clients: int,
    alpha: float,
    rng: np.random.Generator,
    min_images: int = 1,
) -> list[Indices]:
    """Draw every client's label mix from a Dirichlet distribution around the overall mix.

    ``labels`` has shape (images,); returns ``clients`` shards whose sizes differ by at most one. Method: Hsu
    et al. 2019 (arXiv 1909.06335). Client r draws a mix q_r ~ Dir(alpha * p), p being the overall class
    shares, then its images without replacement, the class of each from q_r over the classes not yet used up.
    Note that alpha is the total concentration: the convention with alpha per class is alpha * classes here.
    As alpha grows every client's mix approaches p; as it falls to 0 a client holds one class while that class
    lasts.

    Clients are served in random order, so that who meets used-up classes is chance and every client's
    expected count of a class is its fair share. No retries: a pass that cannot be met in full uses up a
    class, so a client needs at most as many passes as there are classes.
    Raises ReproError if alpha is not within 1e-12..1e12 (beyond, floats underflow) or a client would get
    fewer than ``min_images``.
    """
    labels = _validated(labels, clients)
    _positive_integer("min_images", min_images)
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 1e-12 <= alpha <= 1e12:
        raise ReproError(f"alpha is {alpha!r}: expected a number from 1e-12 to 1e12; correct it")
    if labels.size // clients < min_images:
        raise ReproError(
            f"{labels.size} images over {clients} clients leave {labels.size // clients} for the smallest:"
            f" expected at least {min_images}; lower clients or min_images"
        )
    left = _images_per_class(labels)
    concentration = alpha * left / left.sum()
    counts = np.zeros((clients, left.size), dtype=np.int64)
    sizes = np.full(clients, labels.size // clients)
    sizes[: labels.size % clients] += 1
    for client, size in zip(rng.permutation(clients), sizes, strict=True):
        counts[client] = _draw_without_replacement(size, concentration, left, rng)
        left -= counts[client]
    return _checked(_deal(labels, counts, rng), labels)


def check(
    shards: Sequence[Indices],
    labels: NDArray[np.integer],
    *,
    labels_per_client: int | None = None,
    drop_uncovered: bool = False,
) -> None:
    """Raise ReproError unless ``shards`` is a partition of ``labels`` (images,).

    Every shard must be a non-empty 1-D int64 array of indices 0..images-1, and every image must be in exactly
    one shard; with ``drop_uncovered`` only the images of labels that some client holds must. With
    ``labels_per_client`` every shard must hold exactly that many distinct labels.
    """
    labels = _validated(labels, len(shards))
    uses = np.zeros(labels.size, dtype=np.int64)
    for client, shard in enumerate(shards):
        if not isinstance(shard, np.ndarray) or shard.ndim != 1 or shard.dtype != np.int64:
            raise ReproError(f"shard {client} is not as expected, a 1-D int64 array; pass indices into labels")
        if shard.size == 0:
            raise ReproError(f"client {client} has no image: expected at least one; lower the number of clients")
        if shard.min() < 0 or shard.max() >= labels.size:
            raise ReproError(
                f"client {client} has indices {shard.min()}..{shard.max()}: expected 0..{labels.size - 1};"
                " use the labels that the partition was made from"
            )
        held = np.unique(labels[shard]).size
        if labels_per_client is not None and held != labels_per_client:
            raise ReproError(
                f"client {client} holds {held} distinct labels: expected {labels_per_client};"
                " use the labels that the partition was made from"
            )
        uses += np.bincount(shard, minlength=labels.size)
    if uses.max() > 1:
        raise ReproError(f"image {uses.argmax()} is used {uses.max()} times: expected once; make the shards disjoint")
    expected = np.isin(labels, labels[uses > 0]) if drop_uncovered else np.ones(labels.size, dtype=bool)
    if missed := np.flatnonzero(expected & (uses == 0)).size:
        raise ReproError(f"{missed} of {labels.size} images belong to no client: expected none; cover every image")


def _deal(labels: Indices, counts: Indices, rng: np.random.Generator) -> list[Indices]:
    """Give client r ``counts[r, label]`` images of each label at random; ``counts`` (clients, labels)."""
    parts: list[list[Indices]] = [[] for _ in counts]
    for label, column in enumerate(counts.T):
        order = rng.permutation(np.flatnonzero(labels == label))
        for part, piece in zip(parts, np.split(order, np.cumsum(column[:-1])), strict=True):
            part.append(piece)
    return [np.concatenate(part) for part in parts]


def _checked(
    parts: Sequence[Indices],
    labels: NDArray[np.integer],
    *,
    labels_per_client: int | None = None,
    drop_uncovered: bool = False,
) -> list[Indices]:
    shards = [np.sort(part) for part in parts]
    check(shards, labels, labels_per_client=labels_per_client, drop_uncovered=drop_uncovered)
    return shards


def _positive_integer(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ReproError(f"{name} is {value!r}: expected an integer >= 1; correct it")


def _validated(labels: NDArray[np.integer], clients: int) -> Indices:
    labels = np.asarray(labels)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ReproError(
            f"labels have shape {labels.shape} and type {labels.dtype}:"
            " expected one integer per image; pass class indices"
        )
    if labels.size and labels.min() < 0:
        raise ReproError(f"a label is {labels.min()}: expected 0..classes-1; map the labels to class indices")
    _positive_integer("clients", clients)
    if clients > labels.size:
        raise ReproError(
            f"{clients} clients cannot share {labels.size} images: expected at least one each; lower clients"
        )
    return labels.astype(np.int64)


def _images_per_class(labels: NDArray[np.integer]) -> Indices:
    """Return the image counts, shape (classes,); a class without images is an error."""
    present, images = np.unique(labels, return_counts=True)
    if (gaps := np.flatnonzero(present != np.arange(present.size))).size:
        raise ReproError(
            f"class {gaps[0]} has no image but class {present[-1]} has: expected all labels 0..classes-1;"
            " map the labels to class indices or take more images"
        )
    return images.astype(np.int64)


def _holders(images: Indices, clients: int, k: int) -> NDArray[np.bool_]:
    """Choose k labels per client: shape (clients, classes), every label held by 1..images[label] clients.

    Lay the labels out in a line, all equally long, and cut it into equal intervals: client r takes k
    consecutive labels from the one its interval starts in, moved just far enough that no label is skipped. For
    classes of equal size this is what lets clients have equal sizes; classes that differ a little must not
    move a client to the next label, which would leave another label to a single client. If a class is too
    small for all the clients that this gives it, fall back on proportional quotas, which exist whenever any
    assignment does.
    """
    classes = images.size
    held = np.zeros((clients, classes), dtype=bool)
    start = 0
    for client in range(clients):
        wanted = client * classes // clients
        lowest = classes - (clients - client) * k
        start = 0 if client == 0 else min(max(wanted, lowest), start + k)
        held[client, np.arange(start, start + k) % classes] = True
    if (held.sum(axis=0) <= images).all():
        return held

    room = np.minimum(images, clients)
    if room.sum() < clients * k:
        raise ReproError(
            f"{clients} clients of {k} labels need {clients * k} label places: the classes have images for"
            f" {room.sum()}; lower clients or labels per client, or take more images"
        )
    quotas = np.ones(classes, dtype=np.int64)
    for _ in range(clients * k - classes):
        quotas[np.argmax(np.where(quotas < room, images / quotas, -1.0))] += 1
    # Dealing a label's places to consecutive clients keeps them distinct: no quota exceeds the clients.
    held[:] = False
    held[np.arange(clients * k) % clients, np.repeat(np.arange(classes), quotas)] = True
    return held


def _equalised(images: Indices, held: NDArray[np.bool_]) -> Indices:
    """Share every label's images among its holders so that clients' sizes are as equal as ``held`` allows.

    Returns counts, shape (clients, classes): at least 1 where held, 0 elsewhere, columns summing to
    ``images``. From a split that is even but for what equal sizes need, images move along chains of shared
    labels from a larger client to one smaller by at least two, until no such chain exists; each move lowers
    the sum of squared sizes, hence this ends, and at its minimum.
    """
    counts = _nearly_even(images, held)
    sizes = counts.sum(axis=1)
    moved = True
    while moved:
        moved = False
        for giver in np.argsort(-sizes, kind="stable"):
            if sizes[giver] - sizes.min() < 2:
                continue
            if chain := _chain_to_smaller(int(giver), sizes, counts, held):
                spare = min(int(counts[upper, label]) - 1 for upper, label, _ in chain)
                taker = chain[-1][2]
                amount = min(spare, int(sizes[giver] - sizes[taker]) // 2)
                for upper, label, lower in chain:
                    counts[upper, label] -= amount
                    counts[lower, label] += amount
                sizes[giver] -= amount
                sizes[taker] += amount
                moved = True
    return counts


def _nearly_even(images: Indices, held: NDArray[np.bool_]) -> Indices:
    """Split every label's images evenly among its holders, but for what equal sizes of the clients need.

    Returns counts, shape (clients, classes), as `_equalised` does; sizes are equal up to rounding, and where
    no client would have to give up a label. By least squares: sums of labels count most, then sizes, then
    distances from the even split. Without the last, two labels of a client could be held 96 to 4.
    """
    clients, label = np.nonzero(held)
    even = (images / held.sum(axis=0))[label]
    of_client = 1e2 * (clients == np.arange(held.shape[0])[:, None])
    of_label = 1e4 * (label == np.arange(held.shape[1])[:, None])
    system = np.vstack([of_label, of_client, np.eye(len(even))])
    wanted = np.concatenate([1e4 * images, np.full(held.shape[0], 1e2 * images.sum() / held.shape[0]), even])
    shares = np.maximum(np.linalg.lstsq(system, wanted, rcond=None)[0].round(6), 1.0)
    counts = np.zeros(held.shape, dtype=np.int64)
    counts[clients, label] = np.floor(shares)
    rest = np.zeros(held.shape)
    rest[clients, label] = shares - np.floor(shares)
    for column, missing in enumerate(images - counts.sum(axis=0)):
        for _ in range(abs(missing)):  # what rounding left over, or what raising shares to one image took too much
            if missing > 0:
                chosen = int(np.argmax(np.where(held[:, column], rest[:, column], -np.inf)))
                rest[chosen, column] -= 1
            else:
                chosen = int(np.argmax(counts[:, column]))
            counts[chosen, column] += 1 if missing > 0 else -1
    return counts


def _chain_to_smaller(
    giver: int, sizes: Indices, counts: Indices, held: NDArray[np.bool_]
) -> list[tuple[int, int, int]]:
    """Return the (from, label, to) hand-overs to the smallest client in reach of ``giver``, if that helps."""
    came: dict[int, tuple[int, int]] = {}
    seen_client = np.zeros(len(sizes), dtype=bool)
    seen_client[giver] = True
    seen_label = np.zeros(held.shape[1], dtype=bool)
    queue = [giver]
    for client in queue:
        for label in np.flatnonzero((counts[client] > 1) & ~seen_label).tolist():
            seen_label[label] = True
            for other in np.flatnonzero(held[:, label] & ~seen_client).tolist():
                seen_client[other] = True
                came[other] = (client, label)
                queue.append(other)
    taker = min(queue, key=lambda client: int(sizes[client]))
    if sizes[giver] - sizes[taker] < 2:
        return []
    chain = []
    while taker != giver:
        upper, label = came[taker]
        chain.append((upper, label, taker))
        taker = upper
    return chain[::-1]


def _draw_without_replacement(
    size: int, concentration: NDArray[np.float64], left: Indices, rng: np.random.Generator
) -> Indices:
    """Draw ``size`` images by one Dirichlet mix, at most ``left`` of each; returns counts, shape (classes,).

    Rejecting the draws of used-up classes and drawing again from the others is image-by-image drawing in
    bulk.
    """
    taken = np.zeros_like(left)
    mix = rng.dirichlet(concentration)
    while missing := size - int(taken.sum()):
        available = taken < left
        if mix[available].sum() == 0:
            # A small concentration left nothing, in floats, for these classes. Renormalised to a subset a
            # Dirichlet mix is again Dirichlet and independent of what was cut off, so a fresh draw has the
            # right law.
            mix[available] = rng.dirichlet(concentration[available])
        drawn = rng.multinomial(missing, mix[available] / mix[available].sum())
        taken[available] = np.minimum(taken[available] + drawn, left[available])
    return taken
