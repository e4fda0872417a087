"""How the study is planned, and that the pilot stands in for it, marked, exactly until its own runs are in."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import tree

from repro import cli, files, report
from repro.book import theme
from repro.commands.check import check
from repro.errors import ReproError
from repro.registry import order, specs, store, study
from repro.report import pilot
from repro.results.records import Record
from repro.running import sweep
from repro.verdicts.judge import load_published

FIRST = [11, 12, 13, 14, 15]
COMMIT = "ff9fd0b2e539ceaa834759cbad11caa72bd93657"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study without any record, with chosen rates, and the pilot beside it."""
    made = tree.plant(tmp_path)
    for key, value in (("looks", "{}"), ("rules_commit", "null"), ("complete", "false")):
        text = (made / "data/study.yaml").read_text()
        (made / "data/study.yaml").write_text(re.sub(rf"(?m)^{key}: .*$", f"{key}: {value}", text))
    shutil.copytree(tree.REPOSITORY / "figures/pilot", made / "figures/pilot")
    monkeypatch.chdir(made)
    return made


def look(root: Path, **looks: int) -> None:
    given = ", ".join(f"{name.replace('_', '.')}: {n}" for name, n in looks.items())
    tree.edit(root / "data/study.yaml", "looks: {}", f"looks: {{{given}}}")


def record_all(root: Path, source: str, patterns: tuple[str, ...], spread: float = 0.0) -> list[Record]:
    """Valid records of the planned runs that match ``patterns``; with ``spread``, their order changes with the seed."""
    from fnmatch import fnmatchcase

    made = []
    for group in ("artefact", "control"):
        for spec, seed in specs.runs(source, "study", group, root):
            if any(fnmatchcase(spec.run, pattern) for pattern in patterns):
                turn = spread * (-1) ** (seed + turned(spec))
                made.append(tree.record(spec, seed, root, top1=0.5 + seed / 1000 + turn))
    return made


def turned(spec: specs.Spec) -> int:
    """1 for one run of each trend of e1.c7, which is so better in some seeds and worse in others; else 0."""
    return int("-x2" in spec.run or "-4epochs" in spec.run)


def seeds(root: Path, run: str) -> list[int]:
    source = run.partition("-")[0]
    planned = [task for group in specs.GROUPS for task in specs.runs(source, "study", group, root)]
    return [seed for spec, seed in planned if spec.run == run]


# The file -----------------------------------------------------------------------------------------------------


def test_the_committed_plan_names_the_pilot_by_its_full_commit() -> None:
    found = study.load(tree.REPOSITORY)
    assert found.pilot == study.Pilot(commit=COMMIT, profile="laptop", seeds=3)
    runs = {spec.run for source in specs.SOURCES for spec in _every(source)}
    for group in found.order:
        assert all(any(_matches(run, pattern) for run in runs) for pattern in group.runs), group.name


def _every(source: str) -> list[specs.Spec]:
    tasks = [specs.runs_and_waiting(source, "smoke", group, tree.REPOSITORY)[0] for group in specs.GROUPS]
    return [spec for planned in tasks for spec, _ in planned]


def _matches(run: str, pattern: str) -> bool:
    from fnmatch import fnmatchcase

    return fnmatchcase(run, pattern)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (f'commit: "{COMMIT}"', "commit: ff9fd0b", "key pilot.commit: text ('ff9fd0b'); the full hash of a commit"),
        ("  seeds: 3", "  seeds: three", "key pilot.seeds: text ('three'); a whole number"),
        ("rules_commit: null", "rules_commit: main", "key rules_commit: text ('main'); the full hash"),
        ("complete: false", "complete: 1", "key complete: a number (1); true or false was expected"),
        ("looks: {}", "looks: {e1.c1: 7}", "key looks.e1.c1: a number (7); 8 or 12 was expected"),
        ("looks: {}", "looks: [e1.c1]", "key looks: a list (['e1.c1']); a mapping was expected"),
        ("looks: {}", "look: {}", "unknown key 'look'; did you mean looks?"),
        ("complete: false\n", "", "key complete: missing; a value was expected; add it"),
        ("grids: [e1]", "grids: [e4]", "key order[3].grids[1]: text ('e4'); one of e1, e2, e3, lb was expected"),
    ],
)
def test_a_damaged_plan_is_one_line(old: str, new: str, says: str, root: Path) -> None:
    tree.edit(root / "data/study.yaml", old, new)
    with pytest.raises(ReproError) as raised:
        study.load(root)
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


# Seeds --------------------------------------------------------------------------------------------------------


def test_every_run_has_the_seeds_of_the_first_look_and_laws_and_measurements_the_first_one(root: Path) -> None:
    assert seeds(root, "e1-central") == FIRST
    assert seeds(root, "e1-union-law") == FIRST[:1]
    assert seeds(root, "lb-perf-resnet50") == FIRST[:1]
    assert min(seeds(root, "e1-grid-central-lr0_1")) > 100


def test_a_later_look_of_a_statement_reaches_its_runs_and_no_others(root: Path) -> None:
    look(root, e1_c5=12, e1_c1=8)
    runs = study.runs_read({s.id: s for s in load_published(root).statements}["e1.c5"], root)
    twelve = [*range(11, 23)]
    assert {run: seeds(root, run) for run in runs} == dict.fromkeys(runs, twelve)
    assert seeds(root, "e1-central") == twelve[:8]
    assert seeds(root, "e1-federated-2epochs") == FIRST
    assert seeds(root, "e1-union-law") == FIRST[:1]
    assert [seed for _, seed in specs.runs("e1", "smoke", "artefact", root)][:2] == [1, 2]


def test_a_later_look_reaches_what_a_rule_reads_without_naming_it(root: Path) -> None:
    """The run that sets the target; the run whose share of iterations another one repeats."""
    look(root, e1_c3=8, lb_c20=8)
    assert seeds(root, "e1-central") == [*range(11, 19)]
    content = files.read_yaml(root / "pipelines/lb.yaml")
    defined = content["runs"] | content["controls"]
    statement = next(s for s in load_published(root).statements if s.id == "lb.c20")
    named = set(study.runs_read(statement, root))
    shared = {defined[run]["step_up"]["share_of"] for run in named if "share_of" in defined[run].get("step_up", {})}
    assert shared
    assert shared <= named
    assert all(seeds(root, run) == [*range(11, 19)] for run in shared)


def test_a_look_at_no_statement_is_said(root: Path) -> None:
    look(root, e1_c99=8)
    with pytest.raises(ReproError, match=r"key looks: 'e1.c99' is no statement"):
        specs.runs("e1", "study", "artefact", root)


# Order --------------------------------------------------------------------------------------------------------


def test_the_order_has_every_run_once_done_and_grids_before_what_waits_for_them(root: Path) -> None:
    steps = order.steps(root)
    tuned = [step.tune for step in steps if step.tune]
    assert sorted(tuned) == sorted(s for s in specs.SOURCES if specs.grids(s, "study", root))
    for source in tuned:
        at = next(i for i, step in enumerate(steps) if step.tune == source)
        first = next(
            i
            for i, s in enumerate(steps)
            if not s.tune and any(t[0].lr_grid and t[0].source == source for t in s.tasks(root))
        )
        assert at < first
    listed = {(spec.run, seed) for step in steps for spec, seed in step.tasks(root)}
    planned = {
        (spec.run, seed) for s in specs.SOURCES for group in specs.GROUPS
        for spec, seed in specs.runs(s, "study", group, root)
    }  # fmt: skip
    assert listed == planned


def test_within_a_group_all_runs_of_a_seed_come_before_the_next_seed_the_longest_first(root: Path) -> None:
    tasks = specs.runs("e3", "study", "artefact", root)
    ordered = sweep.by_seed(tasks)
    assert sorted(ordered, key=str) == sorted(tasks, key=str)
    assert [seed for _, seed in ordered] == sorted(seed for _, seed in tasks)
    for seed in FIRST:
        plan = [sweep.cost(task) for task in ordered if task[1] == seed]
        assert plan == sorted(plan, reverse=True)


def test_a_run_waits_for_the_one_whose_share_it_repeats(root: Path) -> None:
    tasks = [task for group in ("artefact", "control") for task in specs.runs("lb", "study", group, root)]
    (spec, seed) = next((s, k) for s, k in tasks if "share_of" in (s.step_up or {}))
    other = (next(s for s, _ in tasks if s.run == spec.step_up["share_of"]), seed)
    assert sweep._waits((spec, seed), [other])
    assert not sweep._waits((spec, seed), [(other[0], seed + 1)])
    assert not sweep._waits(other, [(spec, seed)])


def test_in_order_is_for_the_whole_study_alone(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for more in (["--profile", "smoke"], ["--source", "e1"], ["--only", "recorded"]):
        assert cli.main(["sweep", "--in-order", *more]) == 2
        assert "--in-order computes all runs of profile study" in capsys.readouterr().err


def test_in_order_sweeps_groups_and_chooses_rates_when_their_grid_is_done(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swept: list[list[sweep.Task]] = []

    def record(tasks: list[sweep.Task], where: Path, **_: object) -> sweep.Outcome:
        swept.append(list(tasks))
        for task in tasks:
            if store.stored(*task, where) is None:
                tree.record(*task, where)
        return sweep.Outcome(len(tasks), len(tasks), 0, ())

    monkeypatch.setattr(sweep, "sweep", record)
    specs.learning_rates_path("study", root).write_text("{}\n")
    assert cli.main(["sweep", "--in-order"]) == 0
    done = [(spec.run, seed) for tasks in swept for spec, seed in tasks]
    assert done.index(("e1-grid-central-lr0_1", 101)) < done.index(("e1-central", 11))
    assert specs.rates_chosen("e1", "study", root)
    assert not [task for s in specs.SOURCES for task in store.current(s, "study", root).missing]


# Only what was run before -------------------------------------------------------------------------------------


def test_only_recorded_starts_no_run_that_was_never_run(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[sweep.Task] = []
    monkeypatch.setattr(sweep, "sweep", lambda tasks, *_, **__: asked.extend(tasks) or sweep.Outcome(0, 0, 0, ()))
    assert cli.main(["sweep", "--source", "e3", "--only", "recorded"]) == 0
    assert asked == []
    assert (root / "data/records/study/e3/.gitkeep").exists()
    assert (root / "data/provenance/study/e3/.gitkeep").exists()
    spec = specs.find("e3-noniid-bn", "study", root)
    tree.record(spec, 12, root, fingerprint="old")
    gone = root / "data/provenance/study/e3/e3-noniid-bn.s13.json"
    gone.write_text("{}")  # its record was removed, as `make rebuild` does
    assert cli.main(["sweep", "--source", "e3", "--only", "recorded"]) == 0
    assert [(s.run, seed) for s, seed in asked] == [("e3-noniid-bn", 12), ("e3-noniid-bn", 13)]
    assert not (root / "data/records/study/e3/.gitkeep").exists()


def test_without_learning_rates_nothing_of_the_study_is_an_error(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    specs.learning_rates_path("study", root).unlink()
    commands = ["sweep --only recorded", "tune --only recorded", "list", "plan", "render", "render --group control",
                "verdicts --write", "summary"]  # fmt: skip
    for command in commands:
        assert cli.main(command.split()) == 0, (command, capsys.readouterr().err)
    shutil.copytree(tree.REPOSITORY / "notebooks", root / "notebooks")
    problems, waiting = check("study", root)
    assert problems == []
    assert "e1.c1: shows the pilot; run `make study`" in waiting
    tree.edit(root / "data/study.yaml", "complete: false", "complete: true")
    assert "e1.c1: shows the pilot; run `make study`" in check("study", root)[0]


# The pilot stands in ------------------------------------------------------------------------------------------


def test_a_figure_without_its_runs_is_the_pilots_and_says_so(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["render", "e1.fig1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert all(line.endswith(" (the pilot's: the study lacks runs that it reads)") for line in lines)
    old, new = root / "figures/pilot", root / "figures/study"
    for ending in ("png", "svg", "csv"):
        assert (new / f"e1.fig1.{ending}").read_bytes() == (old / f"e1.fig1.{ending}").read_bytes()
    before, after = (json.loads((folder / "e1.fig1.json").read_text()) for folder in (old, new))
    assert after == before | {"pilot": True, "commit": COMMIT}
    assert pilot.shown("study", root) == ({"e1.fig1"}, frozenset())


def test_a_figure_is_the_studys_own_from_the_last_record_of_the_first_look_on(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    look(root, e1_c5=8)  # the runs of a later look do not matter
    runs = report.ARTEFACTS["e1.fig1"].runs
    record_all(root, "e1", runs)
    last = store.record_path(specs.find(runs[0], "study", root), 15, root)
    kept = last.read_text()
    last.unlink()
    cli.main(["render", "e1.fig1"])
    assert pilot.shown("study", root)[0] == {"e1.fig1"}
    last.write_text(kept)
    capsys.readouterr()
    cli.main(["render", "e1.fig1"])
    assert "pilot" not in capsys.readouterr().out
    assert pilot.shown("study", root)[0] == frozenset()
    assert '"study"' in (root / "figures/study/e1.fig1.json").read_text()


def test_an_artefact_that_neither_has_is_not_made(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (root / "figures/pilot").glob("e1.table1.*"):
        path.unlink()
    assert cli.main(["render", "e1.table1"]) == 0
    assert "the pilot had no such artefact" in capsys.readouterr().err
    assert not list((root / "figures/study").glob("*"))


def test_a_notebook_without_its_runs_is_the_pilots_byte_by_byte(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "notebooks").mkdir()
    shutil.copy(tree.REPOSITORY / "notebooks/e1.ipynb", root / "notebooks")
    assert cli.main(["notebook", "e1"]) == 0
    assert "the pilot's" in capsys.readouterr().out
    new, old = (root / f"figures/{folder}/notebooks/e1.ipynb" for folder in ("study", "pilot"))
    assert new.read_bytes() == old.read_bytes()
    assert pilot.shown("study", root)[1] == {"e1"}
    old.unlink()
    assert cli.main(["notebook", "e1"]) == 2
    assert "the pilot has no such notebook" in capsys.readouterr().err


def verdicts(root: Path) -> dict[str, dict[str, object]]:
    return {v["id"]: v for v in pilot.judge_all(load_published(root).statements, "study", root)}


def test_a_statement_without_its_runs_has_the_pilots_verdict_in_todays_words(root: Path) -> None:
    tree.edit(root / "data/published.yaml", "says: Large batch and federated learning both", "says: Both")
    found, old = verdicts(root), pilot.verdicts(root)
    judged = {name for name, v in old.items() if v["verdict"] != "not run"}
    assert {name for name, v in found.items() if v.get("pilot")} == judged
    assert len(judged) == 48
    assert {v["commit"] for v in found.values() if v.get("pilot")} == {COMMIT}
    words = {"inconclusive": "open (pilot)", "holds at laptop scale": "holds (pilot)",
             "fails at laptop scale": "fails (pilot)", "not comparable": "not comparable (pilot)"}  # fmt: skip
    for name, verdict in found.items():
        if verdict.get("pilot"):
            assert verdict["verdict"] == words[old[name]["verdict"]]
            assert verdict["ours"] == old[name]["ours"]
    assert str(found["e1.c1"]["says"]).startswith("Both")
    assert "inconclusive" not in {part["outcome"] for v in found.values() for part in v["parts"]}


def test_a_statement_that_the_pilot_did_not_have_is_plainly_not_run(root: Path) -> None:
    path = root / "figures/pilot/verdicts.json"
    path.write_text(json.dumps([v for v in json.loads(path.read_text()) if v["id"] != "e1.c1"]))
    found = verdicts(root)["e1.c1"]
    assert (found["verdict"], found.get("pilot")) == ("not run", None)
    assert "e1-central" in str(found["reason"])


def test_a_statement_is_judged_at_the_largest_look_that_is_in(root: Path) -> None:
    statement = next(s for s in load_published(root).statements if s.id == "e1.c7")
    look(root, e1_c7=8)
    runs = tuple(study.runs_read(statement, root))
    record_all(root, "e1", runs, spread=0.2)  # a part that was decided at the first look stays so
    assert (verdicts(root)["e1.c7"]["n"], verdicts(root)["e1.c7"].get("pilot")) == (8, None)
    store.record_path(specs.find(runs[0], "study", root), 18, root).unlink()
    assert (verdicts(root)["e1.c7"]["n"], verdicts(root)["e1.c7"].get("pilot")) == (5, None)
    store.record_path(specs.find(runs[0], "study", root), 13, root).unlink()
    assert (verdicts(root)["e1.c7"]["n"], verdicts(root)["e1.c7"].get("pilot")) == (3, True)


def test_other_profiles_never_show_the_pilot(root: Path) -> None:
    found = pilot.judge_all(load_published(root).statements, "smoke", root)
    assert {v["verdict"] for v in found} == {"not run"}
    assert pilot.shown("smoke", root) == (frozenset(), frozenset())


# Words --------------------------------------------------------------------------------------------------------


def test_every_outcome_has_its_own_sign_and_the_pilot_is_counted_apart() -> None:
    words = ["holds at study scale", "holds in part at study scale", "fails at study scale", "depends on the batch",
             "no difference", "open", "not comparable", "not run"]  # fmt: skip
    assert [theme.verdict_class(word) for word in words] == list(theme.SIGNS)
    assert len(set(theme.SIGNS.values())) == len(theme.SIGNS)
    assert theme.verdict_class("inconclusive") == "open"
    own, old = theme.split([("holds", False), ("holds (pilot)", True), ("open", False), ("holds in part", False)])
    assert (own, old) == ({"holds": 1, "open": 1, "holds in part": 1}, {"holds": 1})
    assert theme.said(own) == "1 holds, 1 holds in part and 1 is open"


def test_the_summary_says_what_came_out_where_the_book_is_and_how_to_check(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["verdicts", "--write"]) == 0
    capsys.readouterr()
    assert cli.main(["summary"]) == 0
    said = capsys.readouterr().out
    assert "Of 62 results, at profile study: 19 were not run.\n" in said
    assert "Of 8 laws, counted apart: 4 were not run; 4 from the pilot.\n" in said
    assert "Of 1 definitions, counted apart: 1 from the pilot.\n" in said
    assert "43 of the results show the pilot, which is never counted (6 hold, 4 fail, 31 are open and 2 are not" in said
    for needed in ("make study", "book/index.html", "audit -n 3", "repro plan"):
        assert needed in said
