from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repro.data import partition
from repro.errors import ReproError


def generator(seed=0):
    return np.random.default_rng(seed)


def shuffled(*images_per_class, seed=0):
    return generator(seed).permutation(np.repeat(np.arange(len(images_per_class)), images_per_class))


def class_counts(shards, labels):
    return np.array([np.bincount(labels[shard], minlength=labels.max() + 1) for shard in shards])


def sizes(shards):
    return [len(shard) for shard in shards]


CIFAR10 = shuffled(*[5000] * 10)
counts_of_classes = st.lists(st.integers(1, 12), min_size=1, max_size=7)


@given(counts_of_classes, st.integers(1, 12), st.integers(0, 99))
def test_iid_uses_every_image_once_and_sizes_differ_by_at_most_one(images, clients, seed):
    labels = shuffled(*images)
    if clients > labels.size:
        with pytest.raises(ReproError, match="lower clients"):
            partition.iid(labels, clients, generator(seed))
        return
    shards = partition.iid(labels, clients, generator(seed))
    assert sorted(np.concatenate(shards)) == list(range(labels.size))
    assert max(sizes(shards)) - min(sizes(shards)) <= 1


def test_iid_class_counts_are_hypergeometric():
    labels = shuffled(*[50] * 10)
    draws = np.stack([class_counts(partition.iid(labels, 5, generator(s)), labels) for s in range(400)])
    variance = 100 * 0.1 * 0.9 * (500 - 100) / (500 - 1)
    # 50 means of 400 draws each: 4.5 standard errors fail by chance once in 3000 seeds; the seeds are fixed.
    assert np.abs(draws.mean(axis=0) - 10).max() < 4.5 * np.sqrt(variance / 400)
    assert draws.var(axis=0).mean() == pytest.approx(variance, rel=0.1)


@settings(deadline=None, max_examples=300)
@given(counts_of_classes, st.integers(1, 12), st.integers(1, 8), st.integers(0, 99))
def test_by_labels_succeeds_exactly_when_such_a_partition_exists(images, clients, k, seed):
    labels = shuffled(*images)
    places = np.minimum(images, clients).sum()
    possible = k <= len(images) <= clients * k <= places
    if not possible:
        with pytest.raises(ReproError, match=r"^[^\n]*$"):
            partition.by_labels(labels, clients, k, generator(seed))
        return
    shards = partition.by_labels(labels, clients, k, generator(seed))
    assert sorted(np.concatenate(shards)) == list(range(labels.size))
    assert ((class_counts(shards, labels) > 0).sum(axis=1) == k).all()


@pytest.mark.parametrize(("clients", "k"), [(8, 2), (10, 2), (32, 2), (96, 2), (10, 1), (100, 1), (16, 5)])
def test_by_labels_gives_equal_sizes_on_cifar10(clients, k):
    shards = partition.by_labels(CIFAR10, clients, k, generator())
    assert ((class_counts(shards, CIFAR10) > 0).sum(axis=1) == k).all()
    assert sum(sizes(shards)) == 50_000
    assert max(sizes(shards)) - min(sizes(shards)) <= 1


@pytest.mark.parametrize("images", [4_000, 12_000])
def test_by_labels_is_balanced_where_as_many_clients_as_classes_hold_two_labels_of_a_random_subset(images):
    """Classes of a random subset differ by a few per cent, which must not leave a client with hardly any of one."""
    subset = np.random.default_rng(7).permutation(CIFAR10)[:images]
    shards = partition.by_labels(subset, 10, 2, generator())
    for shard in shards:
        counts = np.unique(subset[shard], return_counts=True)[1]
        assert len(counts) == 2
        assert counts.min() >= 0.35 * len(shard)
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


def test_by_labels_gives_contiguous_blocks_while_labels_last():
    labels = shuffled(*[3] * 100)
    shards = partition.by_labels(labels, 10, 10, generator())
    assert [np.unique(labels[shard]).tolist() for shard in shards] == [
        list(range(10 * client, 10 * client + 10)) for client in range(10)
    ]


def test_by_labels_leaves_out_the_uncovered_labels_only_when_asked():
    labels = shuffled(*generator(1).integers(31, 800, 101))
    with pytest.raises(ReproError, match="cover 100 of 101 classes"):
        partition.by_labels(labels, 10, 10, generator())
    shards = partition.by_labels(labels, 10, 10, generator(), drop_uncovered=True)
    assert sorted(np.concatenate(shards)) == np.flatnonzero(labels < 100).tolist()


def test_the_holders_of_a_label_depend_on_the_counts_and_their_images_on_the_generator():
    one, two = (partition.by_labels(CIFAR10, 8, 2, generator(seed)) for seed in (1, 2))
    assert (class_counts(one, CIFAR10) == class_counts(two, CIFAR10)).all()
    assert any((a != b).any() for a, b in zip(one, two, strict=True))
    again = partition.by_labels(CIFAR10, 8, 2, generator(1))
    assert all((a == b).all() for a, b in zip(one, again, strict=True))


def compositions(total, parts):
    if parts == 1:
        return [(total,)]
    return [(n, *rest) for n in range(1, total - parts + 2) for rest in compositions(total - n, parts - 1)]


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 4), st.integers(2, 3), st.data())
def test_no_other_sharing_among_the_same_holders_has_more_equal_sizes(clients, classes, data):
    row = st.lists(st.booleans(), min_size=clients, max_size=clients).filter(any)
    held = np.array(data.draw(st.lists(row, min_size=classes, max_size=classes))).T
    images = np.array([data.draw(st.integers(int(n), 7)) for n in held.sum(axis=0)])
    counts = partition._equalised(images, held)
    assert (counts.sum(axis=0) == images).all()
    assert ((counts > 0) == held).all()
    options = [compositions(int(n), int(h)) for n, h in zip(images, held.sum(axis=0), strict=True)]
    best = np.inf
    for shares in product(*options):
        other = np.zeros_like(counts)
        for label, share in enumerate(shares):
            other[held[:, label], label] = share
        best = min(best, (other.sum(axis=1) ** 2).sum())
    assert (counts.sum(axis=1) ** 2).sum() == best


@settings(deadline=None)
@given(counts_of_classes, st.integers(1, 12), st.floats(-12, 12), st.integers(0, 99))
def test_dirichlet_ends_and_uses_every_image_once_at_any_alpha(images, clients, log10_alpha, seed):
    labels = shuffled(*images)
    if clients > labels.size:
        with pytest.raises(ReproError, match="lower clients"):
            partition.dirichlet(labels, clients, 1.0, generator(seed))
        return
    shards = partition.dirichlet(labels, clients, 10**log10_alpha * 0.999 + 1e-12, generator(seed))
    assert sorted(np.concatenate(shards)) == list(range(labels.size))
    assert max(sizes(shards)) - min(sizes(shards)) <= 1


def test_dirichlet_gives_every_client_its_fair_share_of_a_class_on_average():
    labels = shuffled(10, 20, 30, 60)
    runs = 1500
    # 0.05 and 0.3 use classes up all the time: the branch in which a wrong prior would show.
    for alpha in (0.05, 0.3, 3.0):
        draws = np.stack(
            [class_counts(partition.dirichlet(labels, 6, alpha, generator(s)), labels) for s in range(runs)]
        )
        error = draws.std(axis=0, ddof=1) / np.sqrt(runs)
        # 72 means in all: 4.5 standard errors fail by chance once in 2000 seeds; the seeds are fixed.
        assert (np.abs(draws.mean(axis=0) - np.bincount(labels) / 6) < 4.5 * error).all()


def test_dirichlet_approaches_the_overall_mix_as_alpha_grows():
    labels = shuffled(1000, 2000, 3000, 4000)
    counts = class_counts(partition.dirichlet(labels, 5, 1e12, generator()), labels)
    expected = np.bincount(labels) / 5
    # What remains is multinomial sampling: 5 standard deviations, 20 counts.
    assert (np.abs(counts - expected) < 5 * np.sqrt(expected)).all()


def test_dirichlet_concentrates_as_alpha_falls():
    def mean_top_share(alpha):
        runs = [class_counts(partition.dirichlet(CIFAR10, 10, alpha, generator(s)), CIFAR10) for s in range(5)]
        return np.mean([counts.max(axis=1) / counts.sum(axis=1) for counts in runs])

    top_share = [mean_top_share(alpha) for alpha in (1000, 10, 1, 0.1)]
    assert top_share == sorted(top_share)
    # As many clients as classes, all of one size: at the lowest alpha each client holds one whole class.
    counts = class_counts(partition.dirichlet(CIFAR10, 10, 1e-12, generator()), CIFAR10)
    assert sorted(counts.max(axis=1)) == [5000] * 10


def test_the_first_client_drawn_has_the_mixes_variance():
    # Var of a class count is that of the Dirichlet-multinomial: n p (1-p) (n + a) / (1 + a).
    draws = np.array(
        [
            partition._draw_without_replacement(50, 2.0 * np.full(4, 0.25), np.full(4, 50), generator(s))
            for s in range(4000)
        ]
    )
    assert draws.var(axis=0).mean() == pytest.approx(50 * 0.25 * 0.75 * (50 + 2) / (1 + 2), rel=0.05)


def test_exhausted_classes_leave_the_others_in_proportion_to_the_mix():
    # Three classes of weight 1/3, one with two images only: the excess goes half and half to the others.
    draws = np.array(
        [
            partition._draw_without_replacement(30, np.full(3, 1e9), np.array([2, 100, 100]), generator(s))
            for s in range(2000)
        ]
    )
    assert (draws[:, 0] == 2).all()
    # A binomial of 28 trials: sd of a mean of 2000 is 0.06; 4 of those.
    assert draws[:, 1].mean() == pytest.approx(14, abs=0.24)
    assert draws[:, 1].var() == pytest.approx(7, rel=0.15)


@pytest.mark.parametrize("alpha", [0, -1.0, float("nan"), float("inf"), 1e-300, "0.1", True])
def test_dirichlet_refuses_an_alpha_that_is_no_concentration(alpha):
    with pytest.raises(ReproError, match="alpha"):
        partition.dirichlet(CIFAR10, 10, alpha, generator())


def test_dirichlet_refuses_what_min_images_cannot_have():
    with pytest.raises(ReproError, match="expected at least 4"):
        partition.dirichlet(shuffled(5, 5), 3, 1.0, generator(), min_images=4)


@pytest.mark.parametrize(
    "labels",
    [
        np.zeros((4, 10), dtype=int),
        np.zeros(4),
        np.array([0, -1, 1, 0]),
        np.array([], dtype=int),
        np.zeros(4, dtype=bool),
    ],
    ids=["one-hot", "float", "negative", "empty", "bool"],
)
@pytest.mark.parametrize("kind", partition.KINDS)
def test_labels_that_are_no_class_indices_are_an_error(kind, labels):
    options = {"iid": {}, "labels": {"labels_per_client": 1}, "dirichlet": {"alpha": 1.0}}[kind]
    with pytest.raises(ReproError):
        partition.make(kind, labels, 2, generator(), **options)


def test_a_class_without_images_is_an_error_where_classes_matter():
    with pytest.raises(ReproError, match="class 1 has no image"):
        partition.by_labels(np.array([0, 2, 2, 0]), 2, 1, generator())


@pytest.mark.parametrize("clients", [0, -1, 2.0, True, "2"])
def test_a_number_of_clients_that_is_no_count_is_an_error(clients):
    with pytest.raises(ReproError, match="clients"):
        partition.iid(CIFAR10, clients, generator())


@pytest.mark.parametrize(
    ("kind", "options", "named"),
    [
        ("iod", {}, "iid, labels, dirichlet"),
        ("labels", {}, "labels_per_client"),
        ("dirichlet", {}, "alpha"),
        ("iid", {"alpha": 1.0}, "alpha"),
        ("iid", {"drop_uncovered": True}, "drop_uncovered"),
        ("dirichlet", {"alpha": 1.0, "labels_per_client": 2}, "labels_per_client"),
    ],
)
def test_make_names_the_setting_that_is_wrong(kind, options, named):
    with pytest.raises(ReproError, match=named):
        partition.make(kind, CIFAR10, 10, generator(), **options)


@pytest.mark.parametrize(
    ("kind", "options", "direct"),
    [
        ("iid", {}, lambda rng: partition.iid(CIFAR10, 8, rng)),
        ("labels", {"labels_per_client": 2}, lambda rng: partition.by_labels(CIFAR10, 8, 2, rng)),
        ("dirichlet", {"alpha": 0.5}, lambda rng: partition.dirichlet(CIFAR10, 8, 0.5, rng)),
    ],
)
def test_make_is_the_function_it_names(kind, options, direct):
    made = partition.make(kind, CIFAR10, 8, generator(), **options)
    assert all((a == b).all() for a, b in zip(made, direct(generator()), strict=True))
    assert all(shard.dtype == np.int64 for shard in made)


@pytest.mark.parametrize(
    ("shards", "options", "message"),
    [
        ([[0, 1], [2, 3]], {}, None),
        ([[0, 1], []], {}, "client 1 has no image"),
        ([[0, 1], [1, 2, 3]], {}, "image 1 is used 2 times"),
        ([[0, 1], [2]], {}, "1 of 4 images belong to no client"),
        ([[0, 1], [2, 4]], {}, "expected 0..3"),
        ([[0, 1], [2, -1]], {}, "expected 0..3"),
        ([[0, 2], [1, 3]], {"labels_per_client": 1}, "holds 2 distinct labels"),
        ([[0], [1]], {"drop_uncovered": True}, None),
        ([[0], [2]], {"drop_uncovered": True}, "2 of 4 images belong to no client"),
        ([], {}, "clients is 0"),
    ],
)
def test_check_accepts_partitions_only(shards, options, message):
    labels = np.array([0, 0, 1, 1])
    arrays = [np.array(shard, dtype=np.int64) for shard in shards]
    if message is None:
        partition.check(arrays, labels, **options)
    else:
        with pytest.raises(ReproError, match=message):
            partition.check(arrays, labels, **options)


@pytest.mark.parametrize("shard", [[0, 1], np.array([True, False]), np.array([[0, 1]]), np.array([0.0, 1.0])])
def test_check_refuses_a_shard_that_is_no_index_array(shard):
    with pytest.raises(ReproError, match="1-D int64"):
        partition.check([shard], np.array([0, 1]))
