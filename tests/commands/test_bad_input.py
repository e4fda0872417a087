"""Whatever is wrong on the command line or in a file: one line, an exit code that is not 0, nothing changed on disk.

Bad arguments are made from the parser itself, so that a new command or option is tried without a line here.
"""

from __future__ import annotations

import argparse
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tree

from repro import cli
from repro.errors import ReproError
from repro.performance import peak
from repro.running import runner

COMMANDS: dict[str, argparse.ArgumentParser] = next(
    action.choices for action in cli.parser()._actions if isinstance(action, argparse._SubParsersAction)
)
NAMES = ["zzz", "e1.c999", "../e1", "x" * 300, "", "e1-central.s1", "e1.fig1\n", "ü\udcff", "params.yaml", "-"]
NUMBERS = ["-1", "nan", "inf", "1e400", "9" * 400, "", "0x10", "½", "one", " ", "1.5.2", "1,5"]
WRONG = {
    "profile": ["labtop", "", "../smoke", "smoke\n", "Smoke"],
    "memory": ["", "-1GiB", "0", "1 parsec", "nan", "9" * 400, "0.0000001KB"],
    "speeds": ["fast", "nan", "0", "-1,2", "1,,2", "1e300", "inf", ","],
    "links": ["pigeon", "cable,pigeon", ",", "CABLE"],
    "model": ["resnt50", "", "ResNet50"],
    "data": NAMES,
}
GOOD = {
    "run": ["e1-central", "lb-batch-vgg11-1024"], "name": ["e1"], "names": ["cifar10"],
    "ids": ["e1.fig1", "lb.fig7"], "profile": ["smoke", "study", "paper"], "model": ["cnn"],
    "data": ["cifar10"], "memory": ["1GiB"], "speeds": ["1,0.5"],
}  # fmt: skip
BEFORE_ANY_WORK = 60
"""Trials of arguments that only the command itself can refuse; there are about as many different ones."""
FILES = [
    "params.yaml", "pipelines/e1.yaml", "pipelines/smoke/params.yaml", "data/published.yaml", "data/sources.yaml",
    "data/study.yaml", "data/learning_rates/smoke.json", "data/manifests/cifar10.json",
]  # fmt: skip


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tree.plant(tmp_path_factory.mktemp("planted"))
    (root / "params.yaml").write_text("profile: smoke\n")
    shutil.copytree(tree.REPOSITORY / "notebooks", root / "notebooks")
    return root


@pytest.fixture
def root(planted: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No run, no probe and no download is ever started."""

    def never(*_: object, **__: object) -> None:
        pytest.fail("bad input was not refused before work began")

    monkeypatch.setattr(runner, "run", never)
    monkeypatch.setattr(peak, "train", never)
    monkeypatch.setattr("urllib.request.urlopen", never)
    monkeypatch.chdir(planted)
    return planted


def state(root: Path) -> dict[str, tuple[int, int]]:
    found = ((path, path.stat()) for path in root.rglob("*") if path.is_file())
    return {str(path): (stat.st_mtime_ns, stat.st_size) for path, stat in found}


def ended(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    """Exit code and lines on stderr of a command."""
    capsys.readouterr()
    try:
        code = cli.main(arguments)
    except SystemExit as end:
        code = int(end.code or 0)
    return code, capsys.readouterr().err.splitlines()


def refused(arguments: list[str], root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = state(root)
    code, said = ended(arguments, capsys)
    assert code != 0, arguments
    assert len(said) == 1, (arguments, said)
    assert said[0].startswith("repro"), (arguments, said)
    assert len(said[0]) < 2000, (arguments, said)
    assert state(root) == before, arguments


def is_number(action: argparse.Action) -> bool:
    return callable(action.type)


def wrong(action: argparse.Action) -> Iterator[str]:
    """Values that an argument cannot have."""
    if action.nargs == 0:
        return
    if action.choices is not None:
        yield from ("nonesuch", "", "e9")
    elif is_number(action):
        kind: Callable[[str], object] = action.type  # type: ignore[assignment]
        for text in NUMBERS:
            try:
                kind(text)
            except (argparse.ArgumentTypeError, ValueError):
                yield text
    else:
        yield from WRONG.get(action.dest, NAMES)


def words(action: argparse.Action, value: str) -> list[str]:
    return [f"{action.option_strings[-1]}={value}"] if action.option_strings else [value]


def arguments(command: str, bad: argparse.Action, value: str, draw: random.Random) -> list[str]:
    """A command with everything that it needs, some of what it takes, and one value that is wrong."""
    options, positional = [], []
    for action in COMMANDS[command]._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        good = GOOD.get(action.dest, action.choices and list(action.choices))
        needed = action.required or (not action.option_strings and action.nargs is None)
        if action is bad:
            made = words(action, value)
        elif needed or (good and action.option_strings and draw.random() < 0.3):
            made = words(action, draw.choice(good or []))
        elif action.nargs == 0 and draw.random() < 0.3:
            made = [action.option_strings[-1]]
        else:
            continue
        (options if action.option_strings else positional).extend(made)
    return [command, *options, "--", *positional] if positional else [command, *options]


def trials(numbers: bool) -> list[tuple[str, argparse.Action, str]]:
    """Every wrong value of every argument; those that the parser refuses, or those that the command must."""
    return [
        (command, action, value)
        for command, parser in COMMANDS.items()
        for action in parser._actions
        for value in wrong(action)
        if (action.choices is not None or is_number(action)) == numbers
    ]


def test_every_value_of_the_wrong_type_is_one_line(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw = random.Random(1)
    for trial in trials(numbers=True):
        refused(arguments(*trial, draw), root, capsys)


def test_wrong_names_are_one_line_before_any_work_begins(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw = random.Random(2)
    every = trials(numbers=False)
    chosen = draw.sample(every, BEFORE_ANY_WORK)
    assert {command for command, _, _ in every} == {name for name in COMMANDS if takes_names(COMMANDS[name])}
    for trial in chosen:
        refused(arguments(*trial, draw), root, capsys)


def takes_names(parser: argparse.ArgumentParser) -> bool:
    return any(
        action.nargs != 0 and action.choices is None and not is_number(action)
        for action in parser._actions
        if not isinstance(action, argparse._HelpAction)
    )


@pytest.mark.parametrize("seed", range(3))
def test_arguments_in_any_order_never_end_in_a_traceback(
    seed: int, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Words of all commands thrown together: the parser says in one line what it cannot read."""
    draw, options = random.Random(seed), [o for p in COMMANDS.values() for a in p._actions for o in a.option_strings]
    for _ in range(150):
        first = draw.choice([*COMMANDS, "lst", "", "-", "--", "\udcff"])
        rest = [draw.choice([*options, *NAMES, *NUMBERS]) for _ in range(draw.randrange(1, 5))]
        given = [first, *rest, "--nonesuch"]  # so that nothing is ever run
        if not {"-h", "--help"} & set(given):
            code, said = ended(given, capsys)
            assert (code, len(said)) == (2, 1), (given, said)


@pytest.mark.parametrize("how", ["gone", "a folder", "garbled", "empty", "bytes"])
def test_files_that_are_missing_or_damaged_are_one_line(
    how: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every command, each with another file; what a command does not read may be as it likes."""
    skipped = {
        "data",
        "sweep",
        "book",
        "verify",
        "pipelines",
        "notebook",
    }  # which would work, or write, where it is there
    commands = [name for name in COMMANDS if name not in skipped]
    needs = {"run": ["e1-central"], "rerun": ["e1-central"], "import": ["elsewhere"]}
    needs["advise"] = ["--model", "cnn", "--data", "cifar10", "--memory", "1GiB"]
    draw = random.Random(how)
    files = [draw.choice(FILES) for _ in commands]
    for number, (command, file) in enumerate(zip(commands, files, strict=True)):
        copy = shutil.copytree(root, tmp_path / str(number))
        damage(copy / file, how)
        monkeypatch.chdir(copy)
        before = state(copy)
        given = [command, *needs.get(command, [])]
        monkeypatch.setattr(runner, "run", begins)
        code, said = ended(given, capsys)
        said = [line for line in said if "Ctrl-C stops it" not in line]  # what `run` says before it begins
        assert code == 0 or (code in (1, 2) and said), (given, file)
        assert code != 2 or len(said) == 1, (given, file, said)
        assert state(copy) == before, (given, file)


def begins(*_: object, **__: object) -> None:
    raise ReproError("read nothing that is damaged, and would begin to work")


def damage(path: Path, how: str) -> None:
    content = path.read_text()
    path.unlink()
    if how == "a folder":
        path.mkdir()
    elif how == "garbled":
        path.write_text(content[: len(content) // 2] + "\n<<<<<<< HEAD\n]")
    elif how == "empty":
        path.write_text("")
    elif how == "bytes":
        path.write_bytes(b"\xff\xfe\x00" + content.encode())
