"""The study's records keep the rules that stood before they were made: told from the records and git alone."""

from __future__ import annotations

import ast
import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import tree
import yaml

from repro import files
from repro.errors import ReproError
from repro.registry import published, study
from repro.registry.published import Statement, load_ledger, load_published, runs_named
from repro.results.looks import FIRST_SEED

RECORDS, PROVENANCE = "data/records/study", "data/provenance/study"


def git(root: Path, *words: str) -> str:
    return subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True).stdout


def history_of(root: Path, commit: str) -> str | None:
    """Why the commit of the rules cannot be read here, or None."""
    try:
        git(root, "cat-file", "-e", f"{commit}^{{commit}}")
    except FileNotFoundError:
        return "there is no git here"
    except subprocess.CalledProcessError:
        return f"there is no git history here that holds {commit}, the commit of the study's rules"
    return None


def committed(root: Path) -> list[Path]:
    """The study's records that git has, of all groups."""
    return [root / line for line in git(root, "ls-files", RECORDS).splitlines() if line.endswith(".json")]


# What stood at a commit ------------------------------------------------------------------------------------------


@lru_cache
def statements_at(root: Path, commit: str) -> tuple[Statement, ...]:
    """The statements of ``data/published.yaml`` at a commit, as they were written, whatever today's reader accepts."""
    content = yaml.safe_load(git(root, "show", f"{commit}:data/published.yaml"))
    return tuple(Statement(**item) for item in content["statements"])


@lru_cache
def code_hash_at(root: Path, commit: str) -> str:
    """The hash of the files that judged at a commit, which ``published.py`` named then as ``JUDGING``."""
    digest = hashlib.sha256()
    there = git(root, "ls-tree", "-r", "--name-only", commit, "repro").splitlines()
    (names,) = (name for name in there if re.fullmatch(r"repro/(registry/)?published\.py", name))
    for name in _judging(git(root, "show", f"{commit}:{names}")):
        if f"repro/{name}" in there:
            content = git(root, "show", f"{commit}:repro/{name}").encode()
            digest.update(name.encode() + b"\0" + content + b"\0")
    return digest.hexdigest()


def _judging(source: str) -> tuple[str, ...]:
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and [getattr(target, "id", "") for target in node.targets] == ["JUDGING"]:
            return tuple(ast.literal_eval(node.value))
    raise AssertionError("published.py defines no JUDGING")


def rules_among(statements: Iterable[Statement], run: str) -> dict[str, str]:
    """Statement -> hash of its rule, of those whose rule reads ``run``, or the grid that it is a rate of."""
    return {
        each.id: files.sha256(each.judge)
        for each in statements
        if any(run == named or run.startswith(f"{named}-lr") for named in runs_named(each))
    }


@lru_cache
def descends(root: Path, ancestor: str, commit: str) -> bool:
    words = ["git", "-C", str(root), "merge-base", "--is-ancestor", ancestor, commit]
    return subprocess.run(words, capture_output=True).returncode == 0


# Every record ----------------------------------------------------------------------------------------------------


def problems(root: Path, paths: Iterable[Path], history: Path) -> list[str]:
    """One line for everything in the records at ``paths``, below ``root``, that the rules' commit does not bear out.

    Args:
        root: a tree with data/study.yaml, data/published.yaml, and the records and their provenance.
        paths: the records.
        history: the repository that holds the commits.
    """
    plan, today = study.load(root), load_published(root).statements
    found = []
    for path in paths:
        record, name = files.read_json(path), path.relative_to(root / RECORDS).as_posix()
        if plan.rules_commit is None:
            found.append(f"{name}: data/study.yaml names no commit of the rules")
            continue
        if record["seed"] < FIRST_SEED:
            found.append(f"{name}: seed {record['seed']} is one of the pilot's")
        beside = root / PROVENANCE / name
        commit = str(files.read_json(beside)["commit"]).removesuffix("+changes") if beside.exists() else "unknown"
        found += _of_rules(name, record, commit, plan, today, history)
        found += _of_provenance(name, beside, plan.rules_commit, history)
    return found


def _of_rules(
    name: str, record: dict[str, Any], commit: str, plan: study.Study, today: Iterable[Statement], history: Path
) -> Iterable[str]:
    """``commit``: at which the record was made."""
    stored, rules_commit = dict(record.get("rules") or {}), plan.rules_commit or ""
    code = stored.pop("code", None)
    if code != code_hash_at(history, rules_commit):
        if code not in plan.judging:
            yield f"{name}: its code is not the judging code of the rules' commit"
        elif code != code_hash_at(history, commit):
            yield f"{name}: its code is not the judging code of its own commit"
    then = rules_among(statements_at(history, rules_commit), record["run"])
    now = rules_among(today, record["run"])
    for statement in sorted(stored.keys() | then.keys() | now.keys()):
        first, rule = then.get(statement), then.get(statement)
        if added := plan.added.get(statement):
            rule = rules_among(statements_at(history, added), record["run"]).get(statement)
            first = rule if descends(history, added, commit) else None
        if stored.get(statement) != first:
            yield f"{name}: its rule of {statement} is not that of the rules' commit"
        if rule != now.get(statement) and statement not in plan.changed:
            yield f"{name}: the rule of {statement} has changed, and data/study.yaml names no entry of the ledger"


def _of_provenance(name: str, path: Path, rules_commit: str, history: Path) -> Iterable[str]:
    if not path.exists():
        yield f"{name}: no provenance"
        return
    commit = str(files.read_json(path)["commit"])
    if commit.endswith("+changes"):
        yield f"{name}: made with uncommitted changes, {commit}"
    elif not descends(history, rules_commit, commit):
        yield f"{name}: made at {commit}, which does not descend from the rules' commit"


def test_every_record_of_the_study_has_the_rules_that_stood_before_it() -> None:
    root = tree.REPOSITORY
    commit = study.load(root).rules_commit
    if commit is not None and (why := history_of(root, commit)):
        pytest.skip(why)
    paths = committed(root) if commit is not None else sorted((root / RECORDS).rglob("*.json"))
    assert problems(root, paths, root) == []


def test_every_rule_and_code_that_changed_since_is_disclosed_in_the_ledger() -> None:
    plan, known = study.load(tree.REPOSITORY), {choice.id for choice in load_ledger(tree.REPOSITORY)}
    statements = {statement.id for statement in load_published(tree.REPOSITORY).statements}
    assert set(plan.changed) | set(plan.added) <= statements
    assert set(plan.changed.values()) | set(plan.judging.values()) <= known


def test_todays_judging_code_is_that_of_the_rules_or_one_that_was_shown_to_judge_alike() -> None:
    root, plan = tree.REPOSITORY, study.load(tree.REPOSITORY)
    if plan.rules_commit is None or (why := history_of(root, plan.rules_commit)):
        pytest.skip(why)
    assert published.judging_code_hash() in {code_hash_at(root, plan.rules_commit), *plan.judging}


def test_a_statement_that_was_added_later_has_a_run_that_was_made_after_its_rule() -> None:
    root, plan = tree.REPOSITORY, study.load(tree.REPOSITORY)
    if plan.rules_commit is None or (why := history_of(root, plan.rules_commit)):
        pytest.skip(why)
    statements = {statement.id: statement for statement in load_published(root).statements}
    for name, added in plan.added.items():
        old = {
            files.read_json(path)["run"]
            for path in committed(root)
            if not descends(
                root, added, files.read_json(root / PROVENANCE / path.relative_to(root / RECORDS))["commit"]
            )
        }
        assert set(runs_named(statements[name])) - old, f"{name}: all of its runs were made before its rule"


# The check itself, in a repository made for it -------------------------------------------------------------------


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository with one commit, the rules', a second one, and a record of the study made at the second."""
    if shutil.which("git") is None:
        pytest.skip("there is no git here")
    made = tree.plant(tmp_path)
    shutil.copytree(
        tree.REPOSITORY / "repro", made / "repro", ignore=shutil.ignore_patterns("__pycache__", "*.so", "*.pyc")
    )
    git(made, "init", "-q")
    git(made, "config", "user.email", "nobody@example.org")
    git(made, "config", "user.name", "nobody")
    name_in(made, added={}, judging={})  # these name commits and code of the project's own history
    commit(made, "rules")
    name_in(made, rules_commit=head(made))
    commit(made, "the plan names them")
    return made


def commit(root: Path, message: str) -> None:
    git(root, "add", "-A")
    git(root, "commit", "-q", "--allow-empty", "-m", message)


def head(root: Path) -> str:
    return git(root, "rev-parse", "HEAD").strip()


def store(root: Path, run: str = "lb-batch-resnet50-1024", seed: int = 11, at: str | None = None, **body: Any) -> Path:
    """A record of ``run`` with the rules as they stand, made at the commit ``at``; ``body`` changes it."""
    content = {"run": run, "seed": seed, "rules": published.rules_of(run, root)} | body
    folder = root / RECORDS / "lb"
    for path, value in (
        (folder / f"{run}.s{seed}.json", content),
        (root / PROVENANCE / "lb" / f"{run}.s{seed}.json", {"commit": at or head(root)}),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value))
    return folder / f"{run}.s{seed}.json"


def name_in(root: Path, **content: Any) -> None:
    """Set keys of data/study.yaml."""
    path = root / "data/study.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | content, sort_keys=False))


def found(root: Path, *paths: Path) -> list[str]:
    for cached in (statements_at, code_hash_at, descends):
        cached.cache_clear()
    return [line.partition(": ")[2] for line in problems(root, paths, root)]


def test_records_made_under_the_rules_are_in_order(root: Path) -> None:
    assert found(root) == []
    grid = store(root, "e1-grid-large-batch-x2-lr0_1", seed=101)
    at_the_rules = store(root, seed=12, at=study.load(root).rules_commit)
    assert {"e1.c6", "code"} == set(files.read_json(grid)["rules"])
    assert found(root, store(root), grid, at_the_rules) == []
    commit(root, "records")
    assert len(committed(root)) == 3


def test_a_record_with_another_rule_one_too_few_or_too_many_is_named(root: Path) -> None:
    rules = published.rules_of("lb-batch-resnet50-1024", root)
    assert found(root, store(root, rules=rules | {"lb.c6": "0" * 64})) == [
        "its rule of lb.c6 is not that of the rules' commit"
    ]
    without = {name: value for name, value in rules.items() if name != "lb.c6"}
    assert found(root, store(root, rules=without)) == ["its rule of lb.c6 is not that of the rules' commit"]
    assert found(root, store(root, rules=rules | {"e1.c1": "0" * 64})) == [
        "its rule of e1.c1 is not that of the rules' commit"
    ]
    assert "its code is not the judging code of the rules' commit" in found(root, store(root, rules=None))


def test_a_rule_that_changed_after_the_runs_needs_an_entry_of_the_ledger(root: Path) -> None:
    path = store(root)
    tree.edit(root / "data/published.yaml", "margin: 0.02", "margin: 0.03")  # of e1.c1, which reads no such run
    assert found(root, path) == []
    text = (root / "data/published.yaml").read_text()
    place = text.index("- id: lb.c6")
    (root / "data/published.yaml").write_text(
        text[:place] + text[place:].replace("settled_within: 0.02", "settled_within: 0.03", 1)
    )
    assert found(root, store(root, "lb-batch-resnet50-512")) == [
        "its rule of lb.c6 is not that of the rules' commit",  # made under the new one
        "the rule of lb.c6 has changed, and data/study.yaml names no entry of the ledger",
    ]
    assert found(root, path) == ["the rule of lb.c6 has changed, and data/study.yaml names no entry of the ledger"]
    name_in(root, changed={"lb.c6": "lb-large-batches"})
    assert study.load(root).changed == {"lb.c6": "lb-large-batches"}
    assert found(root, path) == []


def test_judging_code_that_changed_before_the_run_is_noticed(root: Path) -> None:
    path = store(root)
    with (root / "repro/verdicts/rules.py").open("a") as rules:
        rules.write("# changed\n")
    commit(root, "other code")
    assert found(root, path) == [], "today's code may differ: records hold what stood then"
    name_in(root, rules_commit=head(root))
    assert "its code is not the judging code of the rules' commit" in found(root, store(root))


def test_code_that_was_shown_to_judge_alike_is_named_and_is_that_of_its_commit(root: Path) -> None:
    with (root / "repro/verdicts/rules.py").open("a") as rules:
        rules.write("# moved\n")
    commit(root, "code that judges alike")
    there, code = head(root), code_hash_at(root, head(root))
    made = store(root, rules=published.rules_of("lb-batch-resnet50-1024", root) | {"code": code})
    assert found(root, made) == ["its code is not the judging code of the rules' commit"]
    name_in(root, judging={code: "lb-judging-code"})
    assert found(root, made) == []
    assert found(root, store(root, at=study.load(root).rules_commit, rules=files.read_json(made)["rules"])) == [
        "its code is not the judging code of its own commit"
    ]
    assert there != study.load(root).rules_commit


def test_a_rule_that_was_added_later_binds_the_runs_that_were_made_after_it(root: Path) -> None:
    before = store(root, seed=12)
    text = (root / "data/published.yaml").read_text()
    place = text.index("- id: lb.c6")
    renamed = text[:place] + text[place:].replace("settled_within: 0.02", "settled_within: 0.04", 1)
    (root / "data/published.yaml").write_text(renamed)
    commit(root, "a later rule")
    later = head(root)
    rules = rules_among(statements_at(root, later), "lb-batch-resnet50-1024")
    name_in(root, added={"lb.c6": later})
    old = {name: value for name, value in files.read_json(before)["rules"].items() if name != "lb.c6"}
    code = {"code": old["code"]}
    assert found(root, store(root, seed=13, at=study.load(root).rules_commit, rules=old)) == []
    assert found(root, store(root, seed=14, at=later, rules=rules | code)) == []
    assert found(root, store(root, seed=15, at=later, rules=old)) == [
        "its rule of lb.c6 is not that of the rules' commit"
    ]


def test_a_run_with_changes_before_the_rules_or_without_provenance_is_named(root: Path) -> None:
    assert found(root, store(root, at=head(root) + "+changes")) == [
        f"made with uncommitted changes, {head(root)}+changes"
    ]
    git(root, "checkout", "-q", "--orphan", "elsewhere")
    commit(root, "no descendant")
    assert found(root, store(root)) == [f"made at {head(root)}, which does not descend from the rules' commit"]
    assert found(root, store(root, at="unknown")) == ["made at unknown, which does not descend from the rules' commit"]
    path = store(root)
    (root / PROVENANCE / path.relative_to(root / RECORDS)).unlink()
    assert found(root, path) == ["no provenance"]


def test_a_seed_of_the_pilot_and_a_plan_without_rules_are_named(root: Path) -> None:
    assert found(root, store(root, seed=10)) == ["seed 10 is one of the pilot's"]
    name_in(root, rules_commit=None)
    assert found(root, store(root)) == ["data/study.yaml names no commit of the rules"]


def test_where_there_is_no_history_the_reason_is_said(tmp_path: Path) -> None:
    assert "there is no git" in str(history_of(tmp_path, "0" * 40))
    assert history_of(tree.REPOSITORY, "0" * 40) is not None


@pytest.mark.parametrize("given", ["[e1.c1]", "{e1.c1: 3}", "{1: e1-target}"])
def test_a_malformed_list_of_changed_rules_is_one_line(tmp_path: Path, given: str) -> None:
    made = tree.plant(tmp_path)
    name_in(made, changed=yaml.safe_load(given))
    with pytest.raises(ReproError, match="key changed") as caught:
        study.load(made)
    assert "\n" not in str(caught.value)
