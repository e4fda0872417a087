"""Records from elsewhere are taken in whole or refused in a line, and none takes the place of a valid one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tree
from test_study_records import commit, git, head, name_in

from repro import cli, files
from repro.errors import ReproError
from repro.registry import published, specs, store
from repro.results import records

MACHINE = {"device": "GPU", "instructions": "AVX2", "system": "Linux", "torch": "2", "numpy": "2", "python": "3.11"}
CLEAN = {"commit": "c0ffee" * 6 + "c0ff", "code": "f00d", "machine": MACHINE, "seconds": 3.5}
RUN = "e1-central"


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This checkout, the working folder."""
    made = tree.plant(tmp_path / "here")
    monkeypatch.chdir(made)
    return made


@pytest.fixture
def there(tmp_path: Path) -> Path:
    return tmp_path / "there"


def sent(
    there: Path, root: Path, seed: int = 1, at: str = "smoke", said: dict[str, Any] | None = None, **changes: Any
) -> Path:
    """A record from elsewhere, with provenance that also says ``said``; ``changes`` are those of the record."""
    record = tree.record(specs.find(RUN, at, root), seed, root, **changes)
    own = records.path_of(record, root)
    path = there / own.relative_to(root)
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(own, path)
    known = CLEAN | {"run": record.run, "seed": record.seed, "fingerprint": record.fingerprint} | (said or {})
    files.write_atomic(records.provenance_path(path), files.canonical_json(known))
    return path


def imported(there: Path, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, list[str], list[str]]:
    """Exit code, and lines on stdout and on stderr."""
    capsys.readouterr()
    code = cli.main(["import", str(there), *options])
    said = capsys.readouterr()
    return code, said.out.splitlines(), said.err.splitlines()


def state(root: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_a_record_and_its_provenance_are_taken_in_once(root: Path, there: Path, capsys) -> None:
    path = sent(there, root)
    before = state(root)
    assert imported(there, capsys, "--dry-run")[1] == [f"data/records/smoke/e1/{RUN}.s1.json: would be taken in"]
    assert state(root) == before
    code, said, wrong = imported(there, capsys)
    assert (code, said, wrong) == (0, [f"data/records/smoke/e1/{RUN}.s1.json: taken in"], [])
    own = root / "data/records/smoke/e1" / path.name
    assert own.read_bytes() == path.read_bytes()
    assert records.provenance_path(own).read_bytes() == records.provenance_path(path).read_bytes()
    assert store.stored(specs.find(RUN, "smoke", root), 1, root) is not None
    after = state(root)
    assert imported(there, capsys) == (0, [f"data/records/smoke/e1/{RUN}.s1.json: is here already, identical"], [])
    assert state(root) == after


def rewritten(**changes: Any) -> Callable[[Path], None]:
    """The record with other contents, and a checksum that fits them."""

    def rewrite(path: Path) -> None:
        body = json.loads(path.read_text()) | changes
        del body["checksum"]
        path.write_text(files.canonical_json(body | {"checksum": files.sha256(body)}))

    return rewrite


def moved(path: Path) -> None:
    other = path.parents[1] / "lb" / path.name
    other.parent.mkdir()
    path.rename(other)


def provenance(**changes: Any) -> Callable[[Path], None]:
    def rewrite(path: Path) -> None:
        beside = records.provenance_path(path)
        files.write_atomic(beside, files.canonical_json(files.read_json(beside) | changes))

    return rewrite


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda path: path.write_text(path.read_text()[:99]), "truncated or not JSON"),
        (lambda path: tree.edit(path, '"test_top1": 0.5', '"test_top1": 0.9'), "edited or damaged"),
        (lambda path: path.rename(path.with_name(f"{RUN}.s2.json")), "the file was renamed or copied"),
        (moved, "it belongs at "),
        (rewritten(fingerprint="0" * 64), "stale, its fingerprint is not that of the settings"),
        (rewritten(series={}), "its number of losses (0 of 2 rounds) is not what its fingerprint stands for"),
        (rewritten(spec={"run": RUN}), "its spec is not what its fingerprint stands for"),
        (lambda path: records.provenance_path(path).unlink(), "no provenance"),
        (lambda path: records.provenance_path(path).write_text("{"), "truncated or not JSON"),
        (lambda path: records.provenance_path(path).write_text("[]"), "not a mapping"),
        (provenance(fingerprint="0" * 64), "its fingerprint is '0000"),
        (provenance(commit=CLEAN["commit"] + "+changes"), "with uncommitted changes"),
        (provenance(commit="unknown"), "made at commit 'unknown'"),
        (provenance(code=""), "no hash of the code"),
        (provenance(machine={}), "it does not name the machine's device"),
        (provenance(machine=MACHINE | {"torch": None}), "it does not name the machine's torch"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_record_that_does_not_count_is_refused_in_a_line(damage, says, root: Path, there: Path, capsys) -> None:
    damage(sent(there, root))
    before = state(root)
    code, said, wrong = imported(there, capsys)
    assert (code, said, len(wrong)) == (1, [], 1)
    assert wrong[0].startswith("repro: refused: ")
    assert says in wrong[0]
    assert state(root) == before


@pytest.mark.parametrize("changes", [{"run": "e1-elsewhere"}, {"seed": 77}, {"profile": "laptop"}])
def test_what_is_not_planned_here_is_refused(changes: dict[str, Any], root: Path, there: Path, capsys) -> None:
    sent(there, root, **changes)
    code, _, (wrong,) = imported(there, capsys)
    assert code == 1
    assert "is not planned at profile" in wrong


def test_a_valid_record_keeps_its_place_and_what_does_not_count_loses_it(root: Path, there: Path, capsys) -> None:
    spec = specs.find(RUN, "smoke", root)
    theirs = sent(there, root, top1=0.75)
    tree.record(spec, 1, root)
    before = state(root)
    code, _, (wrong,) = imported(there, capsys)
    assert code == 1
    assert "is valid, and rows differ; delete that file first" in wrong
    assert state(root) == before
    own = store.record_path(spec, 1, root)
    for worthless in (lambda: tree.record(spec, 1, root, fingerprint="0" * 64), lambda: own.write_text("{")):
        worthless()
        assert imported(there, capsys)[0] == 0
        assert own.read_bytes() == theirs.read_bytes()


def test_of_several_the_good_ones_are_taken_in(root: Path, there: Path, capsys) -> None:
    tree.edit(sent(there, root), "0.5", "0.6")
    path = sent(there, root, 2)
    code, said, wrong = imported(there, capsys)
    assert (code, len(wrong)) == (1, 1)
    assert said == [f"data/records/smoke/e1/{path.name}: taken in"]


def test_a_record_that_cannot_be_written_leaves_no_provenance(root: Path, there: Path, capsys, monkeypatch) -> None:
    sent(there, root)
    before = state(root)

    def full(*_: object) -> None:
        raise ReproError("full")

    monkeypatch.setattr(records, "write", full)
    assert imported(there, capsys)[0] == 1
    assert state(root) == before


def test_a_folder_without_records_says_what_belongs_there(there: Path, capsys) -> None:
    code, _, (wrong,) = imported(there, capsys)
    assert code == 2
    assert "no records; a folder with data/records/<profile>" in wrong


# The study ------------------------------------------------------------------------------------------------------


@pytest.fixture
def rules(root: Path) -> str:
    """The commit of the study's rules, in a history made for it; the plan names it."""
    if shutil.which("git") is None:
        pytest.skip("there is no git here")
    git(root, "init", "-q")
    git(root, "config", "user.email", "nobody@example.org")
    git(root, "config", "user.name", "nobody")
    commit(root, "rules")
    name_in(root, rules_commit=head(root), added={}, judging={})
    return head(root)


def test_a_record_of_the_study_holds_the_rules_and_is_younger(root: Path, there: Path, rules: str, capsys) -> None:
    held = published.rules_of(RUN, root)
    assert len(held) > 1
    sent(there, root, 11, "study", {"commit": rules}, rules=held)
    assert imported(there, capsys)[0] == 0
    name = next(iter(held))
    for number, (changes, made_at, says) in enumerate(
        [
            ({"rules": None}, rules, "its judging code is neither"),
            ({"rules": held | {"code": "0" * 64}}, rules, "its judging code is neither"),
            ({"rules": held | {name: "0" * 64}}, rules, f"its rule of {name} is not today's"),
            ({"rules": {key: value for key, value in held.items() if key != name}}, rules, f"its rule of {name} is"),
            ({"rules": held}, CLEAN["commit"], "no descendant of the rules' commit"),
        ]
    ):
        folder = there.with_name(f"there{number}")
        sent(folder, root, 12, "study", {"commit": made_at}, **changes)
        code, _, (wrong,) = imported(folder, capsys)
        assert code == 1
        assert says in wrong


def test_a_record_with_the_judging_code_of_the_rules_commit_is_taken_in(
    root: Path, there: Path, rules: str, capsys, monkeypatch
) -> None:
    held = published.rules_of(RUN, root)
    sent(there, root, 11, "study", {"commit": rules}, rules=held)
    hashed = published.judging_code_hash  # below, as if that code had changed since
    monkeypatch.setattr(published, "judging_code_hash", lambda *of: hashed(*of) if of else "1" * 64)
    assert "its judging code is neither" in imported(there, capsys)[2][0], "the history made here has no code"
    shutil.copytree(tree.REPOSITORY / "repro", root / "repro", ignore=shutil.ignore_patterns("__pycache__"))
    commit(root, "rules with the code that judges")
    shutil.rmtree(root / "repro")  # git has it; in the working folder it would be another package than this one
    name_in(root, rules_commit=head(root), added={}, judging={})
    sent(there, root, 11, "study", {"commit": head(root)}, rules=held)
    assert imported(there, capsys)[::2] == (0, [])


def test_a_rule_that_is_younger_than_the_record_is_not_asked_of_it(root: Path, there: Path, rules: str, capsys) -> None:
    held = published.rules_of(RUN, root)
    name = next(key for key in held if key != "code")
    commit(root, "a later rule")
    name_in(root, added={name: head(root)})
    without = {key: value for key, value in held.items() if key != name}
    sent(there, root, 11, "study", {"commit": rules}, rules=without)
    assert imported(there, capsys)[0] == 0
    sent(there, root, 12, "study", {"commit": head(root)}, rules=without)
    code, _, (wrong,) = imported(there, capsys)
    assert code == 1
    assert f"its rule of {name} is not today's" in wrong
