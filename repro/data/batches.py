"""Mini-batches of every client, addressed by (client, step), so that nothing has to be replayed after an interruption.

Images stay in memory as bytes on the training device; cropping, flipping and normalising happen there, batch by batch.
B = images in a batch, H x W = image size in pixels, P = padding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from repro.errors import ReproError
from repro.experiments.sizes import local_steps
from repro.randomness import derive, generator


def shrink(images: np.ndarray, size: int) -> np.ndarray:
    """Average square blocks of pixels: (N, H, H, 3) uint8 -> (N, size, size, 3) uint8, rounded to nearest.

    Raises:
        ReproError: ``size`` does not divide the image height.
    """
    n, height = images.shape[:2]
    if height == size:
        return images
    if height % size:
        raise ReproError(f"image_size {size}: a divisor of the data set's {height} px was expected")
    factor = height // size
    blocks = images.reshape(n, size, factor, size, factor, 3)
    return (blocks.mean(axis=(2, 4), dtype=np.float32) + 0.5).astype(np.uint8)


def channel_moments(images: np.ndarray, rows: int = 256) -> tuple[list[float], list[float]]:
    """Mean and deviation of each channel of images (N, H, W, 3) uint8, of pixel values in 0..1.

    To the last bit what numpy finds on all images as float64, which it adds up pixel by pixel; here ``rows`` images are
    float64 at a time, so that 50 000 images need no gigabytes.
    """

    def total(of: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        found = np.zeros(0)
        for at in range(0, len(images), rows):
            values = of(images[at : at + rows].reshape(-1, 3).astype(np.float64) / 255)
            found = np.add.reduce(np.concatenate([found.reshape(-1, 3), values]), axis=0)
        return found

    pixels = images.size // 3
    mean = total(lambda values: values) / pixels
    return mean.tolist(), np.sqrt(total(lambda values: np.square(values - mean)) / pixels).tolist()


class Images:
    """Normalised images on the training device, without augmentation: what evaluation reads.

    Args:
        images: (N, H, W, 3) uint8.
        labels: (N,) int64.
        mean, std: per channel, of pixel values in 0..1.
        dtype: floating type of the batches.
    """

    def __init__(
        self, images: np.ndarray, labels: np.ndarray, mean: Sequence[float], std: Sequence[float],
        *, dtype: torch.dtype = torch.float32, device: str = "cpu", padding: int = 0,
    ) -> None:  # fmt: skip
        if len(images) != len(labels):
            raise ReproError(f"{len(images)} images with {len(labels)} labels; one label for each image was expected")
        self.size, self.padding = images.shape[1], padding
        border = ((0, 0), (padding, padding), (padding, padding), (0, 0))
        self.pixels = torch.from_numpy(np.pad(images, border)).to(device)
        self._mirrored: np.ndarray | None = None
        self.labels = torch.from_numpy(np.array(labels, dtype=np.int64)).to(device)
        self._scale = 1.0 / (255.0 * torch.tensor(std, dtype=dtype, device=device))
        self._shift = torch.tensor(mean, dtype=dtype, device=device) / torch.tensor(std, dtype=dtype, device=device)
        # One number for each value of an image: rows that long are computed several times faster than rows of 3.
        self._scales, self._shifts = (each.repeat(self.size**2) for each in (self._scale, self._shift))

    def __len__(self) -> int:
        return len(self.labels)

    def window(self, index: np.ndarray, top: np.ndarray, left: np.ndarray, flip: np.ndarray) -> tuple[Tensor, Tensor]:
        """Crops of H x W whose corners are (top, left) in the padded image, mirrored where ``flip``.

        Returns:
            x (B, 3, H, W) normalised, channels last in memory, and y (B,) int64.
        """
        where = torch.from_numpy(np.ascontiguousarray(index)).to(self.labels.device)
        crops = self._slices if self.pixels.device.type == "cpu" else self._gather
        rows = crops(index, top, left, flip).reshape(len(index), len(self._scales))
        x = rows.to(self._scale.dtype).mul_(self._scales).sub_(self._shifts)
        return x.view(-1, self.size, self.size, 3).permute(0, 3, 1, 2), self.labels[where]

    def mirror(self) -> np.ndarray:
        """The padded images from right to left, kept beside them from the first call on: as many bytes again."""
        if self._mirrored is None:
            self._mirrored = np.ascontiguousarray(self.pixels.cpu().numpy()[:, :, ::-1])
        return self._mirrored

    def _slices(self, index: np.ndarray, top: np.ndarray, left: np.ndarray, flip: np.ndarray) -> Tensor:
        """What ``_gather`` returns, many times faster on a processor: a slice of each image or of its mirror image."""
        pixels, size, width = self.pixels.numpy(), self.size, self.pixels.shape[2]
        if width == size and not flip.any():  # whole images
            return torch.from_numpy(np.take(pixels, index, axis=0))
        mirrored = self.mirror() if flip.any() else pixels
        out = np.empty((len(index), size, size, 3), np.uint8)
        places = zip(index.tolist(), top.tolist(), left.tolist(), flip.tolist(), strict=True)
        for k, (image, row, column, flipped) in enumerate(places):
            if flipped:
                out[k] = mirrored[image, row : row + size, width - size - column : width - column]
            else:
                out[k] = pixels[image, row : row + size, column : column + size]
        return torch.from_numpy(out)

    def _gather(self, index: np.ndarray, top: np.ndarray, left: np.ndarray, flip: np.ndarray) -> Tensor:
        """The crops of ``window`` as bytes (B, H, W, 3), pixel by pixel: what accelerators do, and easy to check."""
        span = np.arange(self.size)
        rows = top[:, None] + span  # (B, H)
        columns = left[:, None] + np.where(flip[:, None], span[::-1], span)  # (B, W)
        where = torch.from_numpy(np.ascontiguousarray(index)).to(self.labels.device)
        grid = torch.from_numpy(np.stack([rows, columns])).to(self.labels.device)
        return self.pixels[where[:, None, None], grid[0][:, :, None], grid[1][:, None, :]]

    def centre(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Images ``start`` to ``stop`` as they are."""
        return self.whole(np.arange(start, min(stop, len(self))))

    def whole(self, index: np.ndarray) -> tuple[Tensor, Tensor]:
        """The images ``index`` as they are."""
        corner = np.full(len(index), self.padding)
        return self.window(index, corner, corner, np.zeros(len(index), dtype=bool))


class Batches:
    """The local batches of C clients.

    Every client goes through its shard in a new random order each local epoch. The last batch of an epoch holds the
    rest, so that every image is used exactly once per epoch; a rest smaller than half a batch joins the batch before
    it, so that no step rests on a handful of images. With ``augment``, each image is shifted by up to P pixels
    (P = H / 8) and mirrored at random, as is usual for CIFAR.

    Args:
        images: the images of all clients, padded by P where ``augment``.
        shards: for each client, indices into ``images``.
        size: images in a local batch.
        seed: seed of the run; client, epoch and purpose are added to it.
        wait: in large-batch training, a client that has finished its epoch waits for the others, so that no image is
            used twice in an epoch. Otherwise it goes on with its next one, so that all clients take part in every step
            however large their shards are, and an epoch has the steps of a shard of mean size.
        sizes: images in the local batch of each client, where they differ. Shards are then those of
            ``partition.shards_of_batches``: every client takes as many steps in an epoch as the union of all batches
            needs, and the last one holds the rest of its shard.

    Raises:
        ReproError: with ``sizes``, a shard that such an epoch leaves without an image for its last step.
    """

    def __init__(
        self, images: Images, shards: Sequence[np.ndarray], size: int, seed: int, augment: bool, *, wait: bool = True,
        sizes: Sequence[int] | None = None,
    ) -> None:  # fmt: skip
        self.images, self.shards, self.size, self.seed, self.augment = (
            images,
            list(shards),
            size,
            seed,
            augment,
        )
        self.wait, self.sizes = wait, list(sizes or [])
        for shard, own in zip(self.shards, self.sizes, strict=bool(self.sizes)):
            if len(shard) <= (self.rounds_per_epoch - 1) * own:
                raise ReproError(
                    f"a shard of {len(shard)} images for {self.rounds_per_epoch} steps of a local batch of {own}; an "
                    "image for each step was expected; make shards in proportion to local batches"
                )
        self._epoch: dict[int, tuple[int, tuple[np.ndarray, ...]]] = {}
        if augment and images.pixels.device.type == "cpu":
            images.mirror()  # now, so that processes forked later share it

    @property
    def clients(self) -> int:
        """Number of clients C."""
        return len(self.shards)

    def steps_per_epoch(self, client: int) -> int:
        """Local steps in which ``client`` sees each of its images once."""
        if self.sizes:
            return self.rounds_per_epoch
        return local_steps(len(self.shards[client]), self.size)

    @cached_property  # asked for by every client in every step
    def rounds_per_epoch(self) -> int:
        """Steps in which every client has seen all of its images at least once; of a mean shard if clients go on."""
        if self.sizes:
            return local_steps(sum(map(len, self.shards)), sum(self.sizes))
        if not self.wait:
            return local_steps(round(sum(map(len, self.shards)) / self.clients), self.size)
        return max(self.steps_per_epoch(client) for client in range(self.clients))

    def _plan(self, client: int, epoch: int) -> tuple[np.ndarray, ...]:
        """Order of images and their random windows for one local epoch, kept until the client's next epoch."""
        kept = self._epoch.get(client)
        if kept is None or kept[0] != epoch:
            n, padding = len(self.shards[client]), self.images.padding
            order = self.shards[client][generator(self.seed, "order", client, epoch).permutation(n)]
            if self.augment:
                random = generator(self.seed, "augmentation", client, epoch)
                corner = random.integers(0, 2 * padding + 1, size=(2, n))
                windows = (order, corner[0], corner[1], random.random(n) < 0.5)
            else:
                still = np.full(n, padding)
                windows = (order, still, still, np.zeros(n, dtype=bool))
            kept = self._epoch[client] = (epoch, windows)
        return kept[1]

    def _slice(self, client: int, step: int) -> tuple[np.ndarray, ...]:
        steps = self.steps_per_epoch(client)
        epoch, batch = divmod(step, steps)
        last = batch + 1 == steps
        size = self.sizes[client] if self.sizes else self.size
        stop = None if last else (batch + 1) * size
        return tuple(a[batch * size : stop] for a in self._plan(client, epoch))

    def get(self, client: int, step: int) -> tuple[Tensor, Tensor]:
        """Local batch number ``step`` (from 0) of ``client``: x (B, 3, H, W), y (B,)."""
        return self.images.window(*self._slice(client, step))

    def round(self, step: int) -> list[int]:
        """Clients that take part in step ``step`` of large-batch training: those whose epoch still has a batch.

        Shards that differ by an image can differ by one local batch. Epochs stay aligned where clients wait.
        """
        if not self.wait:
            return list(range(self.clients))
        within = step % self.rounds_per_epoch
        return [client for client in range(self.clients) if within < self.steps_per_epoch(client)]

    def local_step(self, client: int, step: int) -> int:
        """Local batch number of ``client`` in step ``step`` of large-batch training (see ``round``)."""
        if not self.wait:
            return step
        epoch, within = divmod(step, self.rounds_per_epoch)
        return epoch * self.steps_per_epoch(client) + within

    def dropout_seed(self, client: int, step: int) -> int:
        """Seed of what the network of ``client`` drops in step ``step``, local or of large-batch training."""
        return derive(self.seed, "dropout", client, step)

    def images_of(self, step: int) -> list[int]:
        """Images of each client that takes part in step ``step`` of large-batch training, in their order."""
        return [len(self._slice(client, self.local_step(client, step))[0]) for client in self.round(step)]

    def together(self, wanted: Iterable[tuple[int, int]]) -> tuple[Tensor, Tensor, list[int]]:
        """Several local batches, each by client and step, concatenated in their order: x, y, images of each."""
        parts = [self._slice(client, step) for client, step in wanted]
        x, y = self.images.window(*(np.concatenate(column) for column in zip(*parts, strict=True)))
        return x, y, [len(part[0]) for part in parts]

    def union(self, step: int) -> tuple[Tensor, Tensor, list[int]]:
        """The batches of all clients in step ``step``, concatenated in order of clients: x, y, images per client."""
        return self.together((client, self.local_step(client, step)) for client in self.round(step))
