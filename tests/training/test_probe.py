"""Statistics of devices' batches against those of all, by hand and on networks."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from repro import models
from repro.data import partition
from repro.data.batches import Batches, Images
from repro.errors import ReproError
from repro.randomness import generator
from repro.training import evaluate, probe
from repro.training.buffers import Buffers, float_buffers

KEYS = {"layers", "mean_shift", "std_ratio", "own_classes", "own_classes_running", "mixed"}


def channels(*rows):
    """One pixel and one channel an image."""
    return torch.tensor(rows, dtype=torch.float64).reshape(len(rows), 1, 1, 1)


@pytest.mark.parametrize(
    ("values", "sizes", "mean_shift", "std_ratio"),
    [
        ((1, 3, 1, 3), (2, 2), 0, 1),  # equal devices
        ((0, 0, 2, 2), (2, 2), 1, 0),  # means 0 and 2 around 1, deviation 1; each device constant
        ((0, 2, 4, 6), (2, 2), 2 / math.sqrt(5), 1 / math.sqrt(5)),  # means 1 and 5 around 3, variance 5; own 1
        ((0, 0, 0, 4), (3, 1), (1 + 3) / 2 / math.sqrt(3), 0),  # unequal: the mean over all is 1, variance 3
        ((5, 5, 5, 5), (2, 2), 0, 1),  # a constant channel tells nothing
    ],
)
def test_shift_by_hand(values, sizes, mean_shift, std_ratio):
    assert probe.shift(channels(*values), sizes) == pytest.approx((mean_shift, std_ratio), abs=1e-12)


def test_shift_averages_over_channels_and_leaves_constant_ones_out():
    equal, apart, constant = channels(1, 3, 1, 3), channels(0, 0, 2, 2), channels(7, 7, 7, 7)
    assert probe.shift(torch.cat([equal, apart], 1), (2, 2)) == pytest.approx((0.5, 0.5))
    assert probe.shift(torch.cat([equal, constant, apart], 1), (2, 2)) == pytest.approx((0.5, 0.5))


def test_shift_counts_every_pixel():
    x = torch.tensor([[0.0, 4.0], [2.0, 6.0]]).reshape(2, 1, 1, 2)  # devices (0, 4) and (2, 6): means 2, 4 around 3
    assert probe.shift(x, (1, 1)) == pytest.approx((1 / math.sqrt(5), 2 / math.sqrt(5)))


def test_shift_does_not_depend_on_the_scale_or_place_of_a_channel():
    torch.manual_seed(0)
    x = torch.randn(9, 4, 3, 3, dtype=torch.float64)
    assert probe.shift(x, (2, 3, 4)) == pytest.approx(probe.shift(7 * x - 3, (2, 3, 4)), rel=1e-9)


def toy(split, images=120, norm="batch"):
    """Four classes that differ in brightness, over four devices; with ``labels`` each has two of them."""
    random = generator(5, "toy")
    labels = np.repeat(np.arange(4), images // 4)
    pixels = random.integers(0, 80, size=(images, 16, 16, 3), dtype=np.uint8)
    pixels = (pixels + 40 * labels[:, None, None, None]).astype(np.uint8)
    data = Images(pixels, labels, (0.5,) * 3, (0.25,) * 3, dtype=torch.float64)
    options = {"labels_per_client": 2} if split == "labels" else {}
    shards = partition.make(split, labels, 4, generator(5, "shards"), **options)
    model = models.build("resnet18", classes=4, width=4, norm=norm, seed=3, dtype=torch.float64)
    return model, Batches(data, shards, 8, 5, False), data


def test_a_network_names_its_layers_in_forward_order_and_stays_as_it_was():
    model, batches, _ = toy("labels")
    x, _, sizes = batches.union(0)
    before = copy.deepcopy(model)
    found = probe.layer_shifts(model.train(), x, sizes, "fp32")
    assert list(found)[:3] == ["norm", "blocks.0.norm1", "blocks.0.norm2"]
    assert len(found) == 20
    assert model.training
    assert not any(module._forward_pre_hooks for module in model.modules())
    for name, value in before.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name


def test_the_first_layers_shift_is_that_of_its_input_and_later_inputs_are_normalised_device_by_device():
    model, batches, _ = toy("labels")
    x, _, sizes = batches.union(0)
    found = probe.layer_shifts(model, x, sizes, "fp32")
    assert found["norm"] == pytest.approx(probe.shift(model.stem(x), sizes), rel=1e-9)
    block = model.blocks[0]
    alone = [nn.BatchNorm2d(4).double()(part) for part in model.stem(x).split(sizes)]
    second = block.conv1(torch.relu(torch.cat(alone)))
    assert found["blocks.0.norm1"] == pytest.approx(probe.shift(second, sizes), rel=1e-9)


def test_devices_with_the_same_batch_differ_in_no_layer():
    model, batches, _ = toy("iid")
    x, _ = batches.get(0, 0)
    for mean, ratio in probe.layer_shifts(model, torch.cat([x, x, x]), [len(x)] * 3, "fp32").values():
        assert (mean, ratio) == pytest.approx((0, 1), abs=1e-9)


def test_two_classes_a_device_shift_the_statistics_and_an_even_split_hardly_does():
    model, *_ = toy("iid")
    skewed, even = (probe.layer_shifts(model, *toy(s)[1].union(0)[::2], "fp32")["norm"] for s in ("labels", "iid"))
    assert skewed[0] > 2 * even[0]
    assert skewed[1] < even[1]


@pytest.mark.parametrize("policy", ["average", "local", "drop"])
def test_accuracies_are_those_of_each_devices_own_classes(policy):
    model, batches, images = toy("labels")
    for buffer in float_buffers(model).values():
        buffer.mul_(0.5).add_(0.2)
    buffers = Buffers.start(policy, model, 4)
    for client, own in enumerate(buffers.own):
        for value in own.values():
            value.add_(client)
    found = probe.statistics_against_union(model, batches, 4, images, buffers)
    assert found.keys() == KEYS
    assert len(found["layers"]) == len(found["mean_shift"]) == len(found["std_ratio"]) == 20

    def accuracy(index, network):
        split = np.array_split(index, (len(index) + 4) // 8)
        return evaluate(network, (images.whole(part) for part in split))["top1"]

    normalised = copy.deepcopy(model).train()
    for layer in normalised.modules():  # by the batch's statistics in evaluation mode too, torch's way
        if hasattr(layer, "running_mean"):
            layer.forward = lambda x, own=layer: nn.functional.batch_norm(x, None, None, own.weight, own.bias, True)
    labels = images.labels.numpy()
    own = [np.flatnonzero(np.isin(labels, classes)) for classes in probe.own_classes(batches)]
    assert found["own_classes"] == pytest.approx(np.mean([accuracy(index, normalised) for index in own]))
    assert found["mixed"] == pytest.approx(accuracy(np.arange(len(labels)), normalised))
    if policy == "drop":
        assert found["own_classes_running"] is None
        return
    each = []
    for client, index in enumerate(own):
        network = copy.deepcopy(model)
        buffers.restore(network, client)
        each.append(accuracy(index, network))
    assert found["own_classes_running"] == pytest.approx(np.mean(each))


def test_classes_of_devices():
    _, batches, _ = toy("labels")
    classes = probe.own_classes(batches)
    assert all(len(own) == 2 and list(own) == sorted(own) for own in classes)
    assert set().union(*classes) == {0, 1, 2, 3}
    assert probe.own_classes(toy("iid")[1]) == [(0, 1, 2, 3)] * 4


def test_a_device_without_evaluation_images_is_left_out():
    model, batches, _ = toy("labels")
    dark = Images(np.zeros((6, 16, 16, 3), np.uint8), np.zeros(6), (0.5,) * 3, (0.25,) * 3, dtype=torch.float64)
    found = probe.statistics_against_union(model, batches, 4, dark, Buffers())
    assert found["own_classes"] == found["mixed"], "those that have class 0, on all images"
    batches.shards = [
        shard for shard, own in zip(batches.shards, probe.own_classes(batches), strict=True) if 0 not in own
    ]
    found = probe.statistics_against_union(model, batches, 4, dark, Buffers())
    assert found["own_classes"] is found["own_classes_running"] is None


def test_a_network_without_batchnorm_has_nothing_to_probe():
    model, batches, images = toy("iid", norm="group")
    with pytest.raises(ReproError, match="without BatchNorm"):
        probe.statistics_against_union(model, batches, 0, images, Buffers())
