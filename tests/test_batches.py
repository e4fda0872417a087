"""Every image once per epoch, the same batches in whatever order they are asked for, and pixels as written down."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from repro.data import partition
from repro.data.batches import Batches, Images, channel_moments, shrink
from repro.errors import ReproError
from repro.experiments.sizes import local_steps
from repro.randomness import generator

MEAN, STD = (0.5, 0.25, 0.125), (0.25, 0.5, 0.2)


def pixels(n: int, size: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def batches(sizes: list[int], local: int = 32, *, augment: bool = False, seed: int = 5, spread: int = 1) -> Batches:
    """Shards of the given sizes; labels are the images' numbers, so that a batch tells which images it holds."""
    total = sum(sizes)
    images = Images(pixels(total), np.arange(total), MEAN, STD, dtype=torch.float64, padding=spread if augment else 0)
    owned = generator(seed, "shards").permutation(total)
    return Batches(images, np.split(owned, np.cumsum(sizes)[:-1]), local, seed, augment)


# Shrinking ----------------------------------------------------------------------------------------------------


def test_shrinking_averages_blocks_and_rounds_to_nearest() -> None:
    image = np.zeros((1, 4, 4, 3), dtype=np.uint8)
    image[0, :, :, 0] = [[1, 2, 255, 255], [3, 4, 255, 255], [0, 0, 10, 0], [0, 1, 0, 0]]
    image[0, :, :, 1] = 7
    assert shrink(image, 2)[0, :, :, 0].tolist() == [[3, 255], [0, 3]]  # 2.5 -> 3, 255, 0.25 -> 0, 2.5 -> 3
    assert shrink(image, 2)[0, :, :, 1].tolist() == [[7, 7], [7, 7]]
    assert shrink(image, 2).dtype == np.uint8


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.sampled_from([(8, 4), (8, 2), (12, 4), (32, 16), (32, 8)]))
def test_shrinking_is_the_exact_block_mean(seed: int, sizes: tuple[int, int]) -> None:
    height, size = sizes
    images, factor = pixels(2, height, seed), height // size
    ours = shrink(images, size)
    assert ours.shape == (2, size, size, 3)
    for n, row, column, channel in np.ndindex(ours.shape):
        block = images[n, row * factor : (row + 1) * factor, column * factor : (column + 1) * factor, channel]
        assert int(ours[n, row, column, channel]) == (2 * int(block.sum()) + factor**2) // (2 * factor**2)


def test_the_size_an_image_has_is_left_as_it_is() -> None:
    images = pixels(2)
    assert shrink(images, 8) is images


@pytest.mark.parametrize("size", [3, 5, 7, 9, 16, 64])
def test_a_size_that_does_not_divide_the_image_is_refused(size: int) -> None:
    with pytest.raises(ReproError, match=f"image_size {size}: a divisor of the data set's 8 px was expected"):
        shrink(pixels(1), size)


# Which images -------------------------------------------------------------------------------------------------

EPOCH = [[33], [32], [31], [1], [32, 33], [2], [32, 32], [47], [32, 16], [32, 47], [32, 32, 16]]
SHARDS, STEPS = [sum(epoch) for epoch in EPOCH], [len(epoch) for epoch in EPOCH]


@pytest.mark.parametrize("augment", [False, True])
def test_a_client_sees_each_of_its_images_once_per_epoch_and_a_small_rest_joins_the_batch_before(augment) -> None:
    made = batches(SHARDS, augment=augment)
    assert [made.steps_per_epoch(client) for client in range(made.clients)] == STEPS
    for client, shard in enumerate(made.shards):
        for epoch in range(3):
            seen = [made.get(client, epoch * STEPS[client] + step)[1] for step in range(STEPS[client])]
            assert [len(y) for y in seen] == EPOCH[client]
            assert sorted(torch.cat(seen).tolist()) == sorted(shard.tolist())


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=5), st.integers(1, 12))
def test_an_epoch_of_rounds_uses_every_image_once_whatever_the_shards(sizes: list[int], local: int) -> None:
    made = batches(sizes, local)
    for epoch in range(2):
        seen: list[int] = []
        for step in range(epoch * made.rounds_per_epoch, (epoch + 1) * made.rounds_per_epoch):
            assert made.round(step), "a round without workers"
            _, y, parts = made.union(step)
            assert sum(parts) == len(y)
            assert len(parts) == len(made.round(step))
            assert all(2 * part < 3 * local for part in parts), "less than half a batch joined to a whole one"
            assert all(2 * part >= local for part in parts) or 2 * min(sizes) < local
            seen += y.tolist()
        assert sorted(seen) == list(range(sum(sizes)))


def test_a_union_is_the_clients_batches_in_order_of_clients() -> None:
    made = batches([65, 31, 64], augment=True)
    for step in range(4):
        x, y, sizes = made.union(step)
        parts = [made.get(client, made.local_step(client, step)) for client in made.round(step)]
        assert torch.equal(x, torch.cat([part for part, _ in parts]))
        assert torch.equal(y, torch.cat([part for _, part in parts]))
        assert sizes == [len(part) for _, part in parts]
    assert [made.round(step) for step in range(4)] == [[0, 1, 2], [0, 2], [0, 1, 2], [0, 2]]


# Order of calls -----------------------------------------------------------------------------------------------


def test_a_batch_depends_on_client_and_step_and_not_on_what_was_asked_before() -> None:
    calls = [(client, step) for client in range(3) for step in range(9)]
    made = batches([65, 31, 64], augment=True)
    forward = {call: made.get(*call) for call in calls}
    order = np.random.default_rng(0).permutation(len(calls)).tolist()
    shuffled, single = batches([65, 31, 64], augment=True), {}
    for k in order:
        single[calls[k]] = shuffled.get(*calls[k])
    for call in calls:
        alone = batches([65, 31, 64], augment=True).get(*call)
        for other in (single[call], alone):
            assert torch.equal(forward[call][0], other[0])
            assert torch.equal(forward[call][1], other[1])


def test_the_order_of_images_differs_between_epochs_clients_and_seeds() -> None:
    def order(seed: int, client: int, epoch: int) -> tuple[int, ...]:
        made = batches([64, 64], seed=seed)
        place = {image: k for k, image in enumerate(made.shards[client].tolist())}
        y = torch.cat([made.get(client, 2 * epoch + step)[1] for step in range(2)])
        return tuple(place[image] for image in y.tolist())

    found = {order(seed, client, epoch) for seed in (1, 2) for client in (0, 1) for epoch in (0, 1, 2)}
    assert len(found) == 12


def test_augmentation_differs_between_epochs_clients_and_seeds_and_is_off_where_it_is_off() -> None:
    """All images are one image, so that batches differ by their windows only."""

    def views(seed: int, client: int, epoch: int, augment: bool = True) -> bytes:
        images = Images(np.repeat(pixels(1), 24, axis=0), np.zeros(24), MEAN, STD, padding=int(augment))
        made = Batches(images, [np.arange(12), np.arange(12, 24)], 12, seed, augment)
        return made.get(client, epoch)[0].contiguous().numpy().tobytes()

    places = [(seed, client, epoch) for seed in (1, 2) for client in (0, 1) for epoch in (0, 1, 2)]
    assert len({views(*place) for place in places}) == 12
    assert len({views(*place, augment=False) for place in places}) == 1


def test_augmentation_shifts_by_up_to_the_padding_on_every_side_and_mirrors_half_of_the_images() -> None:
    made = batches([400], local=400, augment=True, spread=2)
    _, top, left, flip = made._plan(0, 0)
    for corner in (top, left):
        assert sorted(set(corner.tolist())) == [0, 1, 2, 3, 4]
    assert abs(flip.mean() - 0.5) < 0.125  # five standard errors


# Pixels -------------------------------------------------------------------------------------------------------


def test_a_window_is_cropped_mirrored_and_normalised_as_written_down() -> None:
    source = pixels(3)
    images = Images(source, np.array([4, 7, 9]), MEAN, STD, dtype=torch.float64, padding=2)
    x, y = images.window(np.array([2, 0]), np.array([0, 3]), np.array([4, 1]), np.array([False, True]))
    assert y.tolist() == [9, 4]
    assert x.shape == (2, 3, 8, 8)
    padded = np.zeros((3, 12, 12, 3))
    padded[:, 2:10, 2:10] = source
    for k, (image, top, left, flip) in enumerate([(2, 0, 4, False), (0, 3, 1, True)]):
        for channel, row, column in np.ndindex(3, 8, 8):
            from_column = left + (7 - column if flip else column)
            value = (padded[image, top + row, from_column, channel] / 255 - MEAN[channel]) / STD[channel]
            assert float(x[k, channel, row, column]) == pytest.approx(value, abs=1e-12)


def by_pixel(images: Images, *window: np.ndarray) -> torch.Tensor:
    """A batch by the plain formula: pixels gathered one by one, normalised channel by channel."""
    x = images._gather(*window).to(images._scale.dtype) * images._scale - images._shift
    return x.permute(0, 3, 1, 2)


def assert_same(x: torch.Tensor, reference: torch.Tensor) -> None:
    assert (x.dtype, x.shape, x.stride()) == (reference.dtype, reference.shape, reference.stride())
    assert x.permute(0, 2, 3, 1).numpy().tobytes() == reference.permute(0, 2, 3, 1).numpy().tobytes()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.sampled_from([(8, 0), (8, 1), (8, 2), (16, 2), (5, 3)]), st.integers(0, 9))
def test_slices_are_the_pixels_gathered_one_by_one_to_the_bit(dtype, seed, sizes, count) -> None:
    size, padding = sizes
    random = np.random.default_rng(seed)
    images = Images(pixels(7, size, seed), np.arange(7), MEAN, STD, dtype=dtype, padding=padding)
    corners = random.integers(0, 2 * padding + 1, (2, count))
    for flip in (random.random(count) < 0.5, np.zeros(count, bool), np.ones(count, bool)):
        window = (random.integers(0, 7, count), *corners, flip)
        x, y = images.window(*window)
        reference = by_pixel(images, *window)
        assert (x.dtype, x.shape, y.tolist()) == (dtype, reference.shape, window[0].tolist())
        assert_same(x.float(), reference.float())


@pytest.mark.parametrize("augment", [False, True])
@pytest.mark.parametrize("sizes", [None, [13, 6, 12]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_batches_and_unions_are_the_pixels_gathered_one_by_one_to_the_bit(augment, sizes, dtype) -> None:
    images = Images(pixels(160, 16), np.arange(160), MEAN, STD, dtype=dtype, padding=2 if augment else 0)
    shards = np.split(generator(1, "shards").permutation(160), [65, 96])
    made = Batches(images, shards, 32, 5, augment, sizes=sizes)
    for step in range(2 * made.rounds_per_epoch):
        parts = [made._slice(client, made.local_step(client, step)) for client in made.round(step)]
        for client, part in zip(made.round(step), parts, strict=True):
            assert_same(made.get(client, made.local_step(client, step))[0], by_pixel(images, *part))
        union = by_pixel(images, *(np.concatenate(column) for column in zip(*parts, strict=True)))
        assert_same(made.union(step)[0], union)


@pytest.mark.parametrize("padding", [0, 2])
def test_evaluation_reads_the_images_as_they_are(padding: int) -> None:
    source = pixels(5)
    images = Images(source, np.arange(5), MEAN, STD, dtype=torch.float64, padding=padding)
    x, y = images.centre(1, 4)
    expected = (source[1:4] / 255 - np.array(MEAN)) / np.array(STD)
    assert np.allclose(x.permute(0, 2, 3, 1).numpy(), expected, rtol=0, atol=1e-12)
    assert y.tolist() == [1, 2, 3]
    assert images.centre(3, 99)[1].tolist() == [3, 4]
    assert len(images) == 5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_batches_have_the_asked_type_and_lie_channels_last(dtype: torch.dtype) -> None:
    x, y = Images(pixels(4), np.arange(4), MEAN, STD, dtype=dtype).centre(0, 4)
    assert x.dtype == dtype
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert y.dtype == torch.int64


def test_images_without_a_label_each_are_refused() -> None:
    with pytest.raises(ReproError, match="4 images with 3 labels; one label for each image was expected"):
        Images(pixels(4), np.arange(3), MEAN, STD)


def test_clients_that_go_on_all_take_part_in_every_step_and_see_each_image_once_an_epoch_of_their_own():
    sizes = (40, 9, 17)
    labels = np.arange(sum(sizes))
    images = Images(np.zeros((len(labels), 8, 8, 3), np.uint8), labels, (0.5,) * 3, (0.25,) * 3)
    shards = np.split(labels, np.cumsum(sizes)[:-1])
    batches = Batches(images, shards, 4, 5, False, wait=False)
    assert batches.rounds_per_epoch == 6  # 22 images a client: 5 batches and a rest of 2
    for step in range(batches.rounds_per_epoch):
        assert batches.round(step) == [0, 1, 2]
    for client, shard in enumerate(shards):
        steps = batches.steps_per_epoch(client)
        for epoch in range(2):
            seen = [
                batches.get(client, batches.local_step(client, step))[1]
                for step in range(epoch * steps, (epoch + 1) * steps)
            ]
            assert sorted(torch.cat(seen).tolist()) == shard.tolist()


def test_whether_clients_wait_does_not_matter_where_shards_are_equal():
    labels = np.arange(48)
    images = Images(np.zeros((48, 8, 8, 3), np.uint8), labels, (0.5,) * 3, (0.25,) * 3)
    shards = np.split(labels, 3)
    a, b = (Batches(images, shards, 4, 5, False, wait=wait) for wait in (True, False))
    assert a.rounds_per_epoch == b.rounds_per_epoch
    for step in range(2 * a.rounds_per_epoch):
        assert torch.equal(a.union(step)[1], b.union(step)[1])


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 20), min_size=2, max_size=5), st.integers(20, 400))
def test_clients_with_local_batches_of_different_sizes_end_an_epoch_together(sizes: list[int], count: int) -> None:
    union = sum(sizes)
    steps = local_steps(count, union)
    assume(count - (steps - 1) * union >= len(sizes))
    images = Images(np.zeros((count, 8, 8, 3), np.uint8), np.arange(count), MEAN, STD)
    shards = partition.iid(np.zeros(count, int), len(sizes), generator(1, "shards"), sizes)
    made = Batches(images, shards, 1, 5, False, sizes=sizes)
    assert made.rounds_per_epoch == steps
    for epoch in range(2):
        seen: list[int] = []
        for step in range(epoch * steps, (epoch + 1) * steps):
            _, y, parts = made.union(step)
            assert len(parts) == len(sizes), "all take part in every step"
            assert min(parts) >= 1
            assert parts == sizes or step + 1 == (epoch + 1) * steps
            seen += y.tolist()
        assert sorted(seen) == list(range(count))


def test_a_shard_without_an_image_for_the_last_step_is_one_line() -> None:
    images = Images(np.zeros((30, 8, 8, 3), np.uint8), np.zeros(30), MEAN, STD)
    with pytest.raises(ReproError, match="a shard of 5 images for 3 steps of a local batch of 5; an image for each"):
        Batches(images, [np.arange(25), np.arange(25, 30)], 5, 1, False, sizes=[5, 5])


@pytest.mark.parametrize(("count", "size", "rows"), [(7, 8, 3), (100, 16, 7), (513, 8, 256), (1, 8, 4), (40, 4, 40)])
def test_moments_of_channels_are_numpys_to_the_last_bit_however_many_images_are_taken_at_a_time(count, size, rows):
    images = np.random.default_rng(count).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    scaled = images.astype(np.float64) / 255
    assert channel_moments(images, rows) == (scaled.mean((0, 1, 2)).tolist(), scaled.std((0, 1, 2)).tolist())
