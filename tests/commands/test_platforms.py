"""The commands work in other terminals, on other systems, in an archive without git and beside another checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tree

import repro
from repro import cli
from repro.commands import advise
from repro.commands import list as list_command
from repro.data import sets

GIT = shutil.which("git") is not None and (tree.REPOSITORY / ".git").exists()


def run(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    environment = {"PYTHONPATH": str(tree.REPOSITORY), "PATH": os.environ["PATH"]}
    environment |= options.pop("env", {})  # type: ignore[arg-type]
    settings = {"cwd": tree.REPOSITORY, "capture_output": True, "check": False} | options
    return subprocess.run([sys.executable, *arguments], env=environment, **settings)  # type: ignore[call-overload,no-any-return]


def test_the_code_under_test_is_that_of_this_checkout() -> None:
    """Whatever is installed in the environment, which another checkout may share."""
    assert Path(repro.__file__).resolve().parents[1] == tree.REPOSITORY


# Terminals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "ascii", "utf-8"])
def test_a_terminal_without_our_characters_gets_the_nearest_ones(encoding: str) -> None:
    made = run("-m", "repro", "arithmetic", env={"PYTHONIOENCODING": encoding})
    assert made.returncode == 0, made.stderr
    said = made.stdout.decode(encoding)
    assert said.replace("\u202f", " ").count("50 000 / 3 072") == 1
    assert made.stderr == b""


def test_what_no_encoding_has_is_written_as_text_that_can_be_read(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "out").open("w", encoding="ascii") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        cli.main([])
        print("3 − 1 ≤ 2 → 5 ± 1 × é ✓ …")
    assert (tmp_path / "out").read_text().splitlines()[-1] == "3 - 1 <= 2 -> 5 +- 1 x e? ? ..."


def test_a_reader_that_has_enough_and_a_full_disk_are_no_traceback() -> None:
    made = run(
        "-m", "repro", "arithmetic", stdout=None, capture_output=False, stderr=subprocess.PIPE, preexec_fn=closed
    )
    assert (made.returncode, made.stderr) == (0, b"")
    if Path("/dev/full").exists():
        with Path("/dev/full").open("w") as full:
            made = run("-m", "repro", "arithmetic", stdout=full, capture_output=False, stderr=subprocess.PIPE)
        assert made.returncode == 2
        assert made.stderr.startswith(b"repro: No space left on device")
        assert made.stderr.count(b"\n") == 1


def closed() -> None:
    """Standard output becomes a pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    os.dup2(writer, 1)


def test_an_interruption_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.chdir(tree.plant(tmp_path))
    monkeypatch.setattr(list_command, "load_published", interrupted)
    assert cli.main(["list"]) == 130
    assert capsys.readouterr().err.splitlines() == [
        "repro: interrupted; finished runs are kept, unfinished ones go on from their checkpoint"
    ]


# Systems -------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not GIT, reason="no git, or an archive")
def test_a_checkout_with_the_line_ends_of_windows_has_the_bytes_that_were_committed(tmp_path: Path) -> None:
    git = ["git", "-c", "core.autocrlf=true", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(tmp_path)]
    content = {
        "run": b"#!/bin/sh\ntrue\n",
        "dvc.lock": b"a: 1\n",
        "a.csv": b"a,b\n1,2\n",
        "a.png": b"\x89PNG\r\n\x1a\n\0",
    }
    subprocess.run([*git, "init", "-q"], check=True)
    shutil.copy(tree.REPOSITORY / ".gitattributes", tmp_path)
    for name, written in content.items():
        (tmp_path / name).write_bytes(written)
    for command in (["add", "."], ["commit", "-qm", "a"], ["rm", "-q", *content], ["reset", "-q", "--hard"]):
        subprocess.run([*git, *command], check=True)
    assert {name: (tmp_path / name).read_bytes() for name in content} == content


def test_no_committed_file_has_the_line_ends_of_windows() -> None:
    if not GIT:
        pytest.skip("no git, or an archive")
    listed = subprocess.run(
        ["git", "ls-files", "--eol"], cwd=tree.REPOSITORY, capture_output=True, text=True, check=True
    ).stdout
    assert [line for line in listed.splitlines() if line.startswith(("i/crlf", "i/mixed"))] == []


def test_files_of_systems_and_editors_make_no_stage_stale() -> None:
    pytest.importorskip("dvc")
    names = [".DS_Store", "Thumbs.db", "desktop.ini", "sgd.py~", ".sgd.py.swp", ".#sgd.py", "#sgd.py#", "._sgd.py"]
    paths = [f"repro/codecs/{name}" for name in [*names, "__pycache__", ".ipynb_checkpoints", "@eaDir"]]
    made = run("-m", "dvc", "check-ignore", *paths, "repro/codecs/dense.py", text=True)
    assert made.stdout.splitlines() == paths, made.stderr


def test_a_machine_that_does_not_say_how_much_memory_it_has_refuses_no_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sysconf")
    assert advise.physical_bytes("cpu") is None


def test_in_an_archive_without_git_dvc_is_told_to_work_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sets, "DEFAULT", ())
    monkeypatch.chdir(tree.plant(tmp_path))
    (tmp_path / ".dvc").mkdir()
    settings = tmp_path / ".dvc/config.local"
    for before in (None, "[cache]\n    dir = /large\n", "[core]\n    remote = mine\n"):
        if before is not None:
            settings.write_text(before)
        assert cli.main(["data"]) == 0
        assert "no .git here" in capsys.readouterr().out
        assert "[core]\n    no_scm = true\n" in settings.read_text()
        assert settings.read_text().count("[core]") == 1
        assert set((before or "").splitlines()) <= set(settings.read_text().splitlines())
        assert cli.main(["data"]) == 0
        assert capsys.readouterr().out == "", "once is enough"
    settings.unlink()
    (tmp_path / ".git").mkdir()
    assert cli.main(["data"]) == 0
    assert not settings.exists()
