"""One thread per process, and a repository root for runs with the images that they train on.

With one thread, as in every run, results of two machines differ less, and forked workers cannot hang.
"""

import pytest
import torch
import toy

from repro.data import sets

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data():
    """CIFAR-10, prepared."""
    sets.prepare("cifar10", toy.ROOT / "data")


@pytest.fixture
def root(tmp_path):
    """A repository root of its own for records and checkpoints, with this repository's data."""
    (tmp_path / "data").mkdir()
    for name in ("prepared", "raw", "manifests", "sources.yaml"):
        (tmp_path / "data" / name).symlink_to(toy.ROOT / "data" / name)
    return tmp_path
