"""A child's memory watched from outside: it is counted, it is stopped at a limit, and its failures are one line."""

import os
import subprocess
import sys

import numpy as np
import pytest

from repro.errors import ReproError
from repro.performance import peak
from repro.performance.workload import Workload

TOY = Workload(model="resnet18", classes=10, image_size=16, images=256, width=4)
MEBIBYTE = 2**20


def test_the_high_water_mark_of_this_process_sees_an_array() -> None:
    peak.reset_peak()
    before = peak.resident()
    array = np.ones(64 * MEBIBYTE, dtype=np.uint8)
    assert peak.resident_peak(os.getpid()) - before == pytest.approx(array.nbytes, abs=4 * MEBIBYTE)
    del array
    assert peak.resident_peak() >= before + 60 * MEBIBYTE
    assert peak.resident() < before + 8 * MEBIBYTE


def test_a_process_that_is_gone_is_one_line() -> None:
    with pytest.raises(ReproError, match="peak memory is read there"):
        peak.resident_peak(2**22 + 1)


def test_a_child_trains_under_a_generous_limit_and_is_stopped_at_a_tight_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = peak.train(TOY, 64, limit=2**31)
    assert found.finished
    assert found.base < found.peak < 2**31
    stopped = peak.train(TOY, 64, limit=found.base + 8 * MEBIBYTE)
    assert not stopped.finished
    assert stopped.peak > found.base + 8 * MEBIBYTE
    assert capsys.readouterr().err.splitlines() == [
        f"probe: resnet18, batch 64: {words} {each.peak / 2**30:.3f} GiB"
        for words, each in (("peak", found), ("does not fit, ended at", stopped))
    ]


def child(program: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def test_lines_that_come_at_once_or_in_pieces_are_all_heard() -> None:
    at_once = 'import os, sys; os.write(1, b\'{"base": 1}\\n{"done": true}\\n\'); sys.stdin.read()'
    pieces = (
        "import os, sys, time\n"
        "for each in (b'{\"ba', b'se\": 1}\\n{\"do', b'ne\": true}\\n'): os.write(1, each); time.sleep(0.05)\n"
        "sys.stdin.read()"
    )
    for program in (at_once, pieces):
        with child(program) as started:
            told, _, over = peak._watch(started, None, timeout=20)
        assert (told, over) == ({"base": 1, "done": True}, False)


def test_a_child_that_says_nothing_is_ended_with_one_line() -> None:
    with child("import time; time.sleep(60)") as started, pytest.raises(ReproError, match=r"not done after 0\.2 s"):
        peak._watch(started, None, timeout=0.2)


def test_a_child_that_fails_says_why_in_one_line() -> None:
    with pytest.raises(ReproError, match="training nonesuch at batch 8 failed: unknown model 'nonesuch'"):
        peak.train(Workload(**{**TOY.as_dict(), "model": "nonesuch"}), 8)  # type: ignore[arg-type]
