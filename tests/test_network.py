"""Laws of the cost model: the slowest device sets the round, and time is linear in the bytes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro.errors import ReproError
from repro.results.links import Link, load_links, round_seconds, slowest

speeds = st.floats(0.1, 1e4)
sizes = st.floats(0, 1e9)
links = st.builds(Link, st.just("link"), speeds, speeds)


def test_the_seconds_of_the_worked_example() -> None:
    """44.7 MB each way over 4 / 2 Mbit/s: 89.4 s down and 178.8 s up."""
    assert Link("slow mobile", 4, 2).seconds(44.7e6, 44.7e6) == pytest.approx(89.4 + 178.8)


@given(st.lists(links, min_size=1, max_size=5), sizes, sizes)
def test_the_slowest_device_sets_the_round(devices: list[Link], up: float, down: float) -> None:
    seconds = round_seconds(devices, up, down)
    assert seconds == max(device.seconds(up, down) for device in devices)
    assert slowest(devices, up, down).seconds(up, down) == seconds


@given(st.lists(links, min_size=1, max_size=5), links, sizes, sizes)
def test_one_more_device_never_shortens_a_round(devices: list[Link], new: Link, up: float, down: float) -> None:
    assert round_seconds([*devices, new], up, down) >= round_seconds(devices, up, down)


@given(st.lists(links, min_size=1, max_size=5), sizes, sizes, st.floats(0.01, 100))
def test_seconds_are_linear_in_the_bytes(devices: list[Link], up: float, down: float, factor: float) -> None:
    whole = round_seconds(devices, factor * up, factor * down)
    assert whole == pytest.approx(factor * round_seconds(devices, up, down), rel=1e-9)


def test_who_is_slowest_depends_on_the_messages() -> None:
    fast_down, fast_up = Link("a", 100, 1), Link("b", 1, 100)
    assert slowest([fast_down, fast_up], bytes_up=1, bytes_down=0) is fast_down
    assert slowest([fast_down, fast_up], bytes_up=0, bytes_down=1) is fast_up


@pytest.mark.parametrize("speed", [0, -1, float("nan")])
def test_a_link_without_speed_is_refused(speed: float) -> None:
    with pytest.raises(ReproError, match=r"link dead: .* above 0 were expected"):
        Link("dead", 1, speed)


def test_a_round_needs_a_device() -> None:
    with pytest.raises(ReproError, match="at least one link"):
        round_seconds([], 1, 1)


def write(root: Path, text: str) -> Path:
    (root / "pipelines").mkdir()
    (root / "pipelines/e2.yaml").write_text(text)
    return root


def test_link_classes_keep_the_order_of_their_file(tmp_path: Path) -> None:
    root = write(tmp_path, "links:\n  slow mobile: {down: 4, up: 2}\n  DSL: {down: 16, up: 8}\n")
    assert load_links(root) == [Link("slow mobile", 4, 2), Link("DSL", 16, 8)]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("runs: {}", "key links: empty; a mapping was expected"),
        ("links: {}", "key links"),
        ("links: [1]", "key links"),
        ("links: {DSL: 16}", r"key links\.DSL: a number \(16\); a mapping was expected"),
        ("links: {DSL: {down: 16}}", r"key links\.DSL"),
        ("links: {DSL: {down: 16, up: 8, latency: 1}}", r"key links\.DSL"),
        ("links: {DSL: {down: 16, up: fast}}", r"key links\.DSL"),
        ("links: {DSL: {down: 16, up: true}}", r"key links\.DSL"),
        ("links: {DSL: {down: 16, up: 0}}", r"key links\.DSL\.up: a number \(0\); a positive number"),
    ],
)
def test_malformed_links_are_one_line_that_names_the_key(text: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(ReproError, match=says) as error:
        load_links(write(tmp_path, text))
    assert "\n" not in str(error.value)


def test_the_cost_model_needs_no_torch() -> None:
    code = "import sys, repro.results.links; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent.parent)
