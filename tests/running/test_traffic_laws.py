"""Laws of what is sent: they hold, and they notice an implementation that breaks them."""

import numpy as np
import pytest

from repro.running import traffic_laws
from repro.running.traffic_laws import ring_all_reduce


@pytest.mark.parametrize("clients", range(1, 8))
@pytest.mark.parametrize("length", [7, 12, 50])
def test_a_ring_finds_the_sum_and_every_client_sends_its_share(clients: int, length: int) -> None:
    vectors = [np.random.default_rng(n).integers(-9, 9, size=length).astype(float) for n in range(clients)]
    reduced, sent = ring_all_reduce(vectors)
    for own in reduced:
        assert np.array_equal(own, sum(vectors))
    assert sum(sent) == 8 * length * 2 * (clients - 1)
    assert max(sent) - min(sent) <= 2 * 8


def test_a_server_grows_with_its_clients_and_a_ring_does_not() -> None:
    found = traffic_laws.star_and_ring(workers=8, width=4, seed=1)
    assert found["clients"] == 8
    assert found["star_deviation"] == 0
    assert found["star_growth"] == 4
    assert found["ring_deviation"] <= found["ring_rounding"] < 0.01
    assert found["ring_growth"] == pytest.approx(2 * (7 / 8), rel=0.01)
    assert found["largest_difference"] <= found["tolerance"] < found["largest_gradient"] / 1000


def test_a_ring_that_forgets_a_step_is_noticed(monkeypatch) -> None:
    def lazy(vectors):
        reduced, sent = ring_all_reduce(vectors)
        return [own + (n == 0) for n, own in enumerate(reduced)], [2 * n for n in sent]

    monkeypatch.setattr(traffic_laws, "ring_all_reduce", lazy)
    found = traffic_laws.star_and_ring(workers=4, width=4, seed=1)
    assert found["largest_difference"] > found["tolerance"]
    assert found["ring_deviation"] > found["ring_rounding"]


def test_an_epoch_has_fewer_iterations_and_messages_at_larger_batches() -> None:
    found = traffic_laws.epoch_traffic(images=64, local_batch=8, image_size=16, width=4, seed=1)
    assert found["iterations_deviation"] == 0
    assert found["bytes_deviation"] == 0
    assert found["least_saving"] == 2
    assert found["least_step"] > 1e-6
    assert found["largest_batch"] == 64


def test_a_rest_that_an_epoch_does_not_divide_is_noticed() -> None:
    found = traffic_laws.epoch_traffic(images=60, local_batch=8, image_size=16, width=4, seed=1)
    assert found["iterations_deviation"] > found["tolerance"]


def test_the_slowest_device_sets_the_time_of_a_round() -> None:
    found = traffic_laws.slowest_device(workers=6, width=4, seed=1)
    for name in ("round_deviation", "faster_others", "slower_slowest", "growth_deviation"):
        assert found[name] <= found["tolerance"]
    assert found["upload_share"] == pytest.approx(2 / 3)
    assert found["larger_model"] > 3


def test_a_round_that_waits_for_the_mean_device_is_noticed(monkeypatch) -> None:
    monkeypatch.setattr(
        traffic_laws,
        "round_seconds",
        lambda links, up, down: float(np.mean([link.seconds(up, down) for link in links])),
    )
    found = traffic_laws.slowest_device(workers=6, width=4, seed=1)
    assert found["round_deviation"] > found["tolerance"]
