"""What a user sees: one line and exit code 2 for bad input, 1 for a bad answer, 0 otherwise, and never a traceback."""

import argparse
import json
import pickle
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tree
import yaml

import repro
from repro import cli, files
from repro.commands import console
from repro.commands import list as list_command
from repro.errors import ReproError
from repro.registry import specs, store
from repro.results import records
from repro.running import runner, sweep, tuning
from repro.verdicts import judge, rules

COMMANDS = next(
    action.choices for action in cli.parser()._actions if isinstance(action, argparse._SubParsersAction)
)  # name -> parser
WITH_PROFILE = [name for name, parser in COMMANDS.items() if "--profile" in parser.format_help()]
ADVISE = ["--model", "resnet50", "--data", "cifar10", "--memory", "1GiB"]
REQUIRED = {
    "run": ["e1-central"],
    "rerun": ["e1-central"],
    "notebook": ["e1"],
    "advise": ADVISE,
    "import": ["elsewhere"],
}
# Artefacts at the smoke profile, seeds counted; e1 and e3 have one law each, e2 6 payload runs, lb 5 measurements.
RUNS = {"e1": 31, "e2": 32, "e3": 59, "lb": 152}
LAWS = {
    "e1": ["e1-union-law"], "e2": ["e2-law-slowest-device", "e2-law-lost-worker"], "e3": ["e3-normalisation-law"],
}  # fmt: skip
"""The only runs without images, by source."""
READS_RECORDS = ["list", "sweep", "verdicts", "render", "plan", "audit", "run", "rerun", "verify", "book"]


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the small files as the working folder; no run is ever executed."""
    tree.plant(tmp_path)
    (tmp_path / "params.yaml").write_text("profile: smoke\n")
    chosen = {
        source: {
            arm: {"lr": 0.1, "grid": tuning._identity(made, [101], tmp_path)}
            for arm, made in specs.grids(source, "smoke", tmp_path).items()
        }
        for source in specs.SOURCES
    }
    (tmp_path / "data/learning_rates/smoke.json").write_text(json.dumps(chosen))
    monkeypatch.chdir(tmp_path)

    def never(*_: object, **__: object) -> None:
        pytest.fail("a run was started")

    monkeypatch.setattr(runner, "run", never)
    return tmp_path


def words(command: str) -> list[str]:
    return [command, *REQUIRED.get(command, [])]


def refused(capsys, *arguments: str) -> str:
    """The one line on stderr of a command that ends with exit code 2 and prints nothing else."""
    capsys.readouterr()
    assert cli.main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("repro: ")
    assert said.err.count("\n") == 1
    assert "Traceback" not in said.err
    return said.err


def misused(capsys, *arguments: str) -> str:
    """The one line on arguments that make no sense; exit code 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--help` explains" in line
    return line


def done(capsys, *arguments: str, code: int = 0) -> str:
    capsys.readouterr()
    assert cli.main(arguments) == code
    return capsys.readouterr().out


def stored(root: Path, run: str = "e1-central", seed: int = 1, **changes) -> Path:
    spec = specs.find(run, "smoke", root)
    tree.record(spec, seed, root, **changes)
    return store.record_path(spec, seed, root)


# Help ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_says_what_it_does_and_explains_its_options(command: str, capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main([command, "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert COMMANDS[command].description.split()[0] in text
    for action in COMMANDS[command]._actions:
        assert action.help or action.dest == "run" or action.metavar == "RUN", f"{command}: {action.dest} has no help"


def test_the_program_starts_and_lists_its_commands() -> None:
    made = subprocess.run(
        [sys.executable, "-m", "repro", "--help"], cwd=tree.REPOSITORY, capture_output=True, text=True, check=True
    )
    assert all(f"\n    {command}" in made.stdout for command in COMMANDS)


def test_the_command_line_itself_does_not_import_torch() -> None:
    code = "import sys, repro.cli; repro.cli.parser(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=tree.REPOSITORY, check=False).returncode == 0


# Unknown names ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_outside_a_checkout_every_command_says_where_to_go(command: str, tmp_path_factory, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert "not in a checkout of this project" in refused(capsys, *words(command))


def test_from_a_folder_inside_a_checkout_its_root_is_found(root: Path, monkeypatch, capsys) -> None:
    """Files in messages are named as they are reached from the working folder."""
    stored(root)
    folder = root / "pipelines/smoke"  # which has a params.yaml of its own
    monkeypatch.chdir(folder)
    assert "s1:completed" in done(capsys, "list", "e1-central")
    done(capsys, "verdicts", "--write")
    assert (root / "figures/smoke/verdicts.json").exists()
    (root / "pipelines/e1.yaml").write_text("a: [1,\n")
    assert "repro: ../../pipelines/e1.yaml: not valid YAML" in refused(capsys, "list")


def test_the_code_of_another_checkout_is_refused(root: Path, capsys) -> None:
    (root / "repro").mkdir()
    (root / "repro/__init__.py").touch()
    line = refused(capsys, "list")
    assert f"{root}: its own code was expected to run, but {Path(repro.__file__).parent} is" in line


@pytest.mark.parametrize("command", ["run", "rerun"])
def test_an_unknown_run_is_answered_with_the_nearest_ones(command: str, capsys) -> None:
    assert "unknown run 'e1-centrall'; did you mean e1-central" in refused(capsys, command, "e1-centrall")


@pytest.mark.parametrize("command", WITH_PROFILE)
def test_an_unknown_profile_is_answered_with_the_known_ones(command: str, root: Path, capsys) -> None:
    line = refused(capsys, *words(command), "--profile", "labtop")
    assert "unknown profile 'labtop'; one of smoke, study, paper was expected" in line
    (root / "params.yaml").write_text("profile: labtop\n")
    assert "params.yaml, key profile: text ('labtop'); one of smoke, study, paper" in refused(capsys, *words(command))


@pytest.mark.parametrize("command", ["render", "plan"])
def test_an_unknown_id_is_answered_with_the_nearest_ones(command: str, capsys) -> None:
    assert "did you mean lb.fig7" in refused(capsys, command, "lb.fig77")
    far = refused(capsys, command, "zzz")
    assert "did you mean" not in far
    assert "`python -m repro list` shows" in far
    assert len(far) < 250, "all ids would be a page"


@pytest.mark.parametrize("command", ["render", "plan", "run", "rerun"])
def test_what_the_package_has_no_run_for_is_said_to_have_none(command: str, capsys) -> None:
    from repro.commands.check import WAITING

    for name in WAITING:
        line = refused(capsys, command, name)
        assert f"{name} is a " in line
        assert "that has no run in this package" in line
        assert "its verdict is 'not run'" in line


@pytest.mark.parametrize("command", ["run", "rerun"])
def test_a_figure_or_statement_where_a_run_belongs_names_runs_behind_it(command: str, capsys) -> None:
    assert "lb.fig7 is no run; the id of a run was expected, and behind it stand lb-batch" in refused(
        capsys, command, "lb.fig7"
    )
    assert "e1.c3 is no run; the id of a run was expected, and behind it stand e1-large-batch, e1-federated" in refused(
        capsys, command, "e1.c3"
    )


def test_a_statement_where_a_figure_belongs_names_its_figure(capsys) -> None:
    line = refused(capsys, "render", "lb.c19")
    assert "lb.c19 is a statement; the id of a figure or table was expected, and it is shown by lb.fig3" in line


def test_a_seed_without_a_record_is_answered_with_those_that_have_one(root: Path, capsys) -> None:
    for seed in (1, 2):
        stored(root, seed=seed)
    line = refused(capsys, "rerun", "e1-central", "--seed", "9")
    assert "e1-central.s9.json: no such record; name a seed that has one: 1, 2" in line


def test_an_unknown_data_set_is_answered_with_the_known_ones(capsys) -> None:
    assert "'mnist'; data/sources.yaml declares: cifar10" in refused(capsys, "data", "mnist")


def test_an_unknown_notebook_is_answered_with_the_known_ones(root: Path, capsys) -> None:
    (root / "notebooks").mkdir()
    (root / "notebooks/e1.ipynb").write_text("{}")
    assert "unknown notebook 'e7'; one of e1 was expected" in refused(capsys, "notebook", "e7")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["sweep", "--time-budget", "-5"], "seconds from 0 up were expected"),
        (["lst"], "invalid choice: 'lst'"),
        (["list", "--source", "e9"], "argument --source: invalid choice: 'e9'"),
        (["run"], "required: RUN"),
        (["run", "e1-central", "--seed", "one"], "argument --seed: 'one'; a whole number from 0 to"),
        (["rerun", "e1-central", "--seed", "-1"], "argument --seed"),
        (["run", "e1-central", "--processes", "0"], "argument --processes: '0'; a whole number from 1 to"),
        (["sweep", "--jobs", "0"], "argument --jobs: '0'; a whole number from 1 to"),
        (["verify", "--jobs", "1000000"], "argument --jobs: '1000000'; a whole number from 1 to"),
        (["run", "e1-central", "--seed", "9" * 400], "9'; a whole number from 0 to 4294967295 was expected"),
        (["sweep", "--time-budget", "nan"], "argument --time-budget: 'nan'; seconds from 0 up were expected"),
        (["verify", "--time-budget", "inf"], "argument --time-budget: 'inf'; seconds from 0 up were expected"),
        (
            [*["advise", "--model", "cnn", "--data", "cifar10", "--memory", "1GiB"], "--clients", "1000000000"],
            "argument --clients: '1000000000'; a whole number from 1 to 1000 was expected",
        ),
        (["sweep", "--time-budget", "soon"], "argument --time-budget: 'soon'; seconds from 0 up were expected"),
        (["audit", "-n", "0"], "argument -n: '0'; a whole number from 1 to"),
        (["list", "--jsn"], "unrecognized arguments: --jsn"),
    ],
)
def test_an_argument_that_makes_no_sense_is_named(arguments: list[str], says: str, capsys) -> None:
    assert says in misused(capsys, *arguments)


# Bad files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "says"),
    [
        ("params.yaml", "params.yaml: not valid YAML at line 2"),
        ("pipelines/e1.yaml", "pipelines/e1.yaml: not valid YAML at line 2"),
        ("pipelines/smoke/params.yaml", "pipelines/smoke/params.yaml: not valid YAML at line 2"),
        ("data/published.yaml", "data/published.yaml: not valid YAML at line 2"),
    ],
)
@pytest.mark.parametrize("command", ["list", "verdicts"])
def test_malformed_yaml_is_named_with_its_line(file: str, says: str, command: str, root: Path, capsys) -> None:
    (root / file).write_text("a: [1,\n")
    assert says in refused(capsys, command)


@pytest.mark.parametrize("command", ["sweep", "run", "rerun", "tune", "plan", "render", "audit", "book"])
def test_a_bad_value_in_a_spec_is_named_by_every_command_that_reads_specs(command: str, root: Path, capsys) -> None:
    stored(root)
    tree.edit(root / "pipelines/e1.yaml", "local_batch: 32", "local_batch: many")
    line = refused(capsys, *words(command))
    assert "pipelines/e1.yaml, key defaults.local_batch: text ('many'); a whole number was expected" in line


@pytest.mark.parametrize("command", ["sweep", "run", "rerun", "render", "verdicts", "book"])
def test_missing_learning_rates_name_the_command_that_chooses_them(command: str, root: Path, capsys) -> None:
    (root / "data/learning_rates/smoke.json").unlink()
    line = refused(capsys, *words(command))
    assert "data/learning_rates/smoke.json: no learning rates chosen for profile smoke" in line
    assert "`make controls PROFILE=smoke`" in line


def test_before_rates_are_chosen_plan_and_list_show_every_run_and_which_of_them_wait(root: Path, capsys) -> None:
    whole = {p["source"] + p["group"]: p["runs"] for p in json.loads(done(capsys, "plan", "--json"))["groups"]}
    runs = {run["run"] for run in json.loads(done(capsys, "list", "--json"))["runs"]}
    (root / "data/learning_rates/smoke.json").unlink()
    planned = json.loads(done(capsys, "plan", "--json"))["groups"]
    assert {p["source"] + p["group"]: p["runs"] + p["runs_without_a_learning_rate"] for p in planned} == whole
    waiting = {p["source"] + p["group"]: p["runs_without_a_learning_rate"] for p in planned}
    assert [name for name, count in waiting.items() if count] == [
        s + g for s in ("e1", "e2", "lb") for g in ("artefact", "control")
    ]
    text = done(capsys, "plan")
    total = sum(waiting.values())
    assert f"by `make controls PROFILE=smoke`: {total} runs (e1 artefact {waiting['e1artefact']}, " in text
    assert "not known" in text, "no run was ever timed here"
    listed = json.loads(done(capsys, "list", "--json"))["runs"]
    assert {run["run"] for run in listed} == runs
    states = {run["run"]: set(run["seeds"].values()) for run in listed}
    assert (states["e1-central"], states["e3-iid-bn"]) == ({"no learning rate yet"}, {"not run"})
    (figure,) = json.loads(done(capsys, "plan", "e1.fig1", "--json"))["groups"]
    assert (figure["runs"], figure["runs_without_a_learning_rate"]) == (0, 6)


@pytest.mark.parametrize("command", ["list", "sweep", "run", "verdicts"])
def test_more_clients_than_images_are_refused(command: str, root: Path, capsys) -> None:
    tree.edit(root / "pipelines/smoke/params.yaml", "train_images: 2600", "train_images: 1")
    arguments = ["run", "e1-federated"] if command == "run" else [command]
    assert "2 workers for 1 images at profile smoke" in refused(capsys, *arguments)


@pytest.mark.parametrize("command", READS_RECORDS)
@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda text: text[:100], "truncated or not JSON"),
        (lambda text: text.replace('"test_top1": 0.5', '"test_top1": 0.9'), "edited or damaged"),
        (lambda text: text.replace('"test_top1": 0.5', '"test_top1": NaN'), "edited or damaged"),
    ],
    ids=["truncated", "edited", "nan"],
)
def test_a_damaged_record_stops_every_command_that_reads_records(command, damage, says, root: Path, capsys) -> None:
    path = stored(root)
    files.write_atomic(records.provenance_path(path), '{"seconds": 3, "machine": {"device": "abacus"}}')
    text = path.read_text()
    assert damage(text) != text
    path.write_text(damage(text))
    line = refused(capsys, *words(command))
    assert "data/records/smoke/e1/e1-central.s1.json: " in line
    assert says in line
    assert "git checkout" in line


def test_a_damaged_record_of_a_grid_stops_the_choice_of_learning_rates(root: Path, capsys) -> None:
    path = stored(root, "e1-grid-central-lr0_1", 101)
    path.write_text(path.read_text()[:-20])
    grids = specs.grids("e1", "smoke", root)["central"]
    for spec in grids:
        if spec.run != "e1-grid-central-lr0_1":
            tree.record(spec, 101, root)
    assert "e1-grid-central-lr0_1.s101.json: truncated" in refused(capsys, "tune")


@pytest.mark.parametrize(
    ("file", "command"),
    [
        ("figures/smoke/verdicts.json", "book"),
        ("figures/study/verdicts.json", "book"),
        ("figures/smoke/verdicts.json", "check"),
        ("data/provenance/smoke/e1/e1-central.s1.json", "plan"),
        ("data/manifests/cifar10.json", "list"),
    ],
)
def test_a_damaged_file_that_the_package_wrote_is_named(file: str, command: str, root: Path, capsys) -> None:
    if command == "list":
        stored(root)
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_text("<<<<<<< HEAD\n")
    assert file in refused(capsys, command)


def test_missing_records_name_the_command_that_makes_them(root: Path, capsys) -> None:
    assert "no such record" in refused(capsys, "rerun", "e1-central")
    assert "`make controls PROFILE=smoke`" in refused(capsys, "tune")
    assert "`python -m repro sweep`" in refused(capsys, "audit")
    assert "e1" in refused(capsys, "render", "e1.fig1")


# Data ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def wrong_data(root: Path) -> None:
    """Four images where CIFAR-10 is expected to be, of the declared shapes and with another content."""
    declared = yaml.safe_load((root / "data/sources.yaml").read_text())
    entry = declared["cifar10"]
    entry["sources"] = [source for source in entry["sources"] if source["kind"] == "raw"]  # nothing is downloaded
    for name, n in (("train", 5), ("test", 1)):
        entry["arrays"][f"{name}_images"]["shape"] = [n, 32, 32, 3]
        entry["arrays"][f"{name}_labels"]["shape"] = [n]
    (root / "data/sources.yaml").write_text(yaml.safe_dump(declared))
    folder = root / "data/raw/cifar-10-batches-py"
    folder.mkdir(parents=True)
    for name in (*entry["sources"][0]["layout"]["train"], "test_batch"):
        content = {"data": np.zeros((1, 3072), dtype=np.uint8), "labels": [3]}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))


def test_data_with_a_wrong_hash_are_refused(wrong_data: None, root: Path, capsys, monkeypatch) -> None:
    for arguments in (["data"], ["data", "cifar10"]):
        line = refused(capsys, *arguments)
        assert "cifar10 could not be obtained" in line
        assert "train_images has SHA-256" in line
    monkeypatch.undo()  # the real runner, from its own folder
    monkeypatch.chdir(root)
    capsys.readouterr()
    assert cli.main(["run", "e1-central"]) == 2
    announced, line = capsys.readouterr().err.splitlines()
    assert announced.startswith("e1-central seed 1 at profile smoke: ")
    assert re.match("repro: .*train_images has SHA-256", line)
    assert not (root / "data/records").exists()


@pytest.mark.parametrize("chosen", ["e1", "e2", "e3"])  # whose images are all those of CIFAR-10
def test_a_sweep_without_data_says_once_what_could_not_start(chosen, wrong_data: None, root: Path, capsys) -> None:
    for law in LAWS[chosen]:
        tree.record(specs.find(law, "smoke", root), 1, root)
    runs, laws = RUNS[chosen], len(LAWS[chosen])
    assert cli.main(["sweep", "--source", chosen]) == 1
    said = capsys.readouterr()
    assert said.out == f"{laws} of {runs} runs are valid; 0 computed now, 0 left for later\n"
    assert said.err.count("\n") == 1
    assert f"{runs - laws} runs on cifar10 could not start" in said.err
    assert "train_images has SHA-256" in said.err


@pytest.mark.parametrize(
    ("run", "says"),
    [
        ("e1-central", "test top-1 50.0 %"), ("e1-union-law", "law"), ("e2-federated-gq", "test top-1 50.0 %"),
        ("e2-payloads-resnet50-1000", "payloads"),
    ],
)  # fmt: skip
def test_a_sweep_stores_and_says_what_every_kind_of_run_gave(run: str, says: str, root: Path, monkeypatch) -> None:
    spec = specs.find(run, "smoke", root)
    made = tree.record(spec, 1, root, **({"rows": []} if spec.kind == "law" else {}))
    store.record_path(spec, 1, root).unlink()
    monkeypatch.setattr(runner, "run", lambda *_, **__: (made, {"seconds": 2.0}))
    assert sweep._run(spec, 1, root) == f"{run} seed 1: {says} in 2 s"
    assert store.stored(spec, 1, root) == made


# Answers ------------------------------------------------------------------------------------------------------


def test_a_sweep_with_learning_rates_that_other_code_chose_goes_on_and_says_so(root: Path, capsys) -> None:
    for source in specs.SOURCES:
        for spec, seed in specs.runs(source, "smoke", root=root):
            tree.record(spec, seed, root)
    assert cli.main(["sweep"]) == 0
    said, runs = capsys.readouterr(), sum(RUNS.values())
    assert (said.out, said.err) == (f"{runs} of {runs} runs are valid; 0 computed now, 0 left for later\n", "")
    for source, arms in tree.ARMS.items():
        file = root / ("pipelines/smoke/params.yaml" if source == "lb" else f"pipelines/{source}.yaml")
        text = file.read_text()
        tree.edit(file, "0.05, 0.1", "0.06, 0.1")
        assert cli.main(["sweep"]) == 0
        said = capsys.readouterr()
        assert said.err.count("\n") == len(arms)
        for arm in arms:
            assert f"the learning rate of {source} {arm} was chosen with other code, data or settings" in said.err
        file.write_text(text)


def test_list_shows_every_id_and_its_state(root: Path, capsys) -> None:
    stored(root)
    stored(root, seed=2, status="diverged", reason="the loss is nan", rows=[])
    stored(root, "e1-federated", fingerprint="0" * 64)
    text = done(capsys, "list")
    assert "\ne1-central " in text
    states = {line.split()[0]: line.split()[3:] for line in text.splitlines() if line.startswith("e1-")}
    assert states["e1-central"] == ["s1:completed", "s2:diverged"]
    assert states["e1-federated"] == ["s1:stale", "s2:not", "run"]
    published = judge.load_published(root)
    for item in [*published.artefacts, *published.statements]:
        assert item.id in text


def test_list_as_json_holds_the_same(root: Path, capsys) -> None:
    stored(root)
    found = json.loads(done(capsys, "list", "--source", "e1", "--json"))
    runs = {run["run"]: run for run in found["runs"]}
    assert set(runs) == {s.run for group in specs.GROUPS for s, _ in specs.runs("e1", "smoke", group, root)}
    assert runs["e1-central"]["seeds"] == {"1": "completed", "2": "not run"}
    assert {a["id"] for a in found["artefacts"]} == {"e1.table1", "e1.fig1", "e1.table2"}
    assert all(entry["id"].startswith("e1.") for entry in found["statements"])


def test_a_valid_record_is_not_computed_again(root: Path, capsys) -> None:
    path = stored(root)
    before = path.read_bytes()
    assert "e1-central.s1.json is valid; nothing to do" in done(capsys, "run", "e1-central")
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("run", "status", "code"),
    [("e1-central", "completed", 0), ("e1-central", "diverged", 1), ("e1-grid-central-lr1_6", "diverged", 0)],
)
def test_a_run_is_stored_and_fails_only_if_it_diverged_unexpectedly(run, status, code, root: Path, monkeypatch, capsys):
    spec = specs.find(run, "smoke", root)
    seed = 1 if run == "e1-central" else 101
    made = tree.record(spec, seed, root, status=status, reason=None if status == "completed" else "the loss is nan")
    if "grid" in run:  # which is there to choose them
        (root / "data/learning_rates/smoke.json").unlink()
    store.record_path(spec, seed, root).unlink()
    seen = []
    monkeypatch.setattr(runner, "run", lambda *task, **_: (seen.append(task[:2]), (made, {"seconds": 1.5}))[1])
    text = done(capsys, "run", run, code=code)
    assert seen == [(spec, seed)], "the first seed of the profile"
    assert f"{run}.s{seed}.json: {status} in 1.5 s" in text
    assert records.read(store.record_path(spec, seed, root)) == made


def test_before_a_run_its_cost_is_said_and_how_to_stop_it(root: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(runner, "run", lambda *_, **__: pytest.fail("stopped here"))

    def announced() -> str:
        capsys.readouterr()
        with pytest.raises(pytest.fail.Exception):
            cli.main(["run", "e1-central", "--seed", "2"])
        return capsys.readouterr().err

    said = "e1-central seed 2 at profile smoke: {}; Ctrl-C stops it, and the same command goes on from its last"
    assert said.format("its cost is not known, no seed was timed") in announced()
    other = records.provenance_path(store.record_path(specs.find("e1-central", "smoke", root), 1, root))
    files.write_atomic(other, files.canonical_json({"cpu_seconds": 7200.0}))
    assert said.format("about 2 core-hours") in announced()


def test_without_a_terminal_progress_is_a_line_now_and_then(monkeypatch, capsys) -> None:
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with console.progress("e1-central seed 2") as report:
        for second, share in ((1, 0.5), (29, 0.55), (40, 0.6), (45, 0.7), (80, 0.75)):  # half was done before
            now[0] = second
            report(share)
    assert capsys.readouterr().err.splitlines() == [
        "e1-central seed 2: 60 % after 40 s, about 160 s left", "e1-central seed 2: 75 % after 80 s, about 80 s left"
    ]  # fmt: skip


@pytest.mark.parametrize(("top1", "says", "code"), [(0.5, "identical", 0), (0.25, "differs", 1)])
def test_a_repetition_fails_if_it_differs(top1: float, says: str, code: int, root: Path, monkeypatch, capsys) -> None:
    path = stored(root)
    files.write_atomic(
        records.provenance_path(path), files.canonical_json({"machine": {"device": "abacus"}, "seconds": 12})
    )
    kept = records.read(path)
    again = replace(kept, rows=[kept.rows[0] | {"test_top1": top1}])
    monkeypatch.setattr(runner, "run", lambda *_, **__: (again, {"machine": {"device": "abacus"}}))
    said = done(capsys, "rerun", "e1-central", code=code)
    assert f"e1-central seed 1: {says} (" in said
    last = f"at epoch {kept.rows[0]['epoch']:g}"
    assert f"recorded top-1 50.00 % {last}, computed again top-1 {100 * top1:.2f} % {last}" in said
    (found,) = json.loads(done(capsys, "rerun", "e1-central", "--json", code=code))
    assert found["verdict"] == says
    assert says in done(capsys, "audit", code=code)
    cli.main(["audit", "--draw", "7"])
    before, said = capsys.readouterr().err.splitlines(), "[1/1] computing e1-central seed 1 (profile smoke) again"
    assert before == ["audit: draw 7", f"{said}; the record took 12 s"]
    assert records.read(path) == kept, "a repetition must not touch what it is compared with"


def test_without_a_command_there_is_help_and_the_version_is_said(capsys, monkeypatch, tmp_path: Path) -> None:
    assert done(capsys) == cli.parser().format_help()
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"repro {repro.__version__}\n"
    monkeypatch.chdir(tmp_path.parent)
    assert "usage: repro" in done(capsys), "help needs no checkout"


def test_list_and_verdicts_of_some_ids_show_these_and_no_other(root: Path, capsys) -> None:
    found = json.loads(done(capsys, "list", "e1.c1", "e1-central", "e1.fig1", "--json"))
    assert {kind: [x.get("id", x.get("run")) for x in listed] for kind, listed in found.items()} == {
        "artefacts": ["e1.fig1"], "runs": ["e1-central"], "statements": ["e1.c1"],
    }  # fmt: skip
    said = done(capsys, "list", "e1.c1")
    assert "STATEMENTS" in said
    assert "RUNS" not in said
    assert [v["id"] for v in json.loads(done(capsys, "verdicts", "e2.c1", "e1.c4", "--json"))] == ["e1.c4", "e2.c1"]
    done(capsys, "verdicts", "e1.c4", "--write")
    assert len(files.read_json(root / "figures/smoke/verdicts.json")) > 1, "what is stored is always all of them"


@pytest.mark.parametrize("command", ["list", "verdicts"])
def test_an_unknown_id_is_named_with_the_nearest_one(command: str, capsys) -> None:
    assert "unknown id 'e1.c11'" in refused(capsys, command, "e1.c11")


def test_an_audit_goes_on_where_a_data_set_is_missing(root: Path, monkeypatch, capsys) -> None:
    kept = {run: records.read(stored(root, run)) for run in ("e1-central", "e1-federated")}

    def run(spec: specs.Spec, *_: object, **__: object) -> tuple[records.Record, dict[str, object]]:
        if spec.run not in here:
            raise ReproError("no images; some were expected; get them")
        return kept[spec.run], {"machine": {"device": "abacus"}}

    monkeypatch.setattr(runner, "run", run)
    here = {"e1-central"}
    assert cli.main(["audit", "-n", "2"]) == 0
    said = capsys.readouterr()
    assert "e1-central seed 1: identical" in said.out
    assert "e1-federated seed 1: not compared (no images; some were expected; get them)" in said.err
    here = set()
    assert cli.main(["audit", "-n", "2"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("repro: no images")


def test_tune_stores_the_best_rates_and_says_when_one_is_at_the_edge(root: Path, capsys) -> None:
    best = {
        "e1": {"central": 0.1, "large-batch": 1.6, "large-batch-x2": 0.4, "federated": 0.2},
        "e2": {"large-batch": 0.0125, "large-batch-plain": 0.1, "federated": 0.4},
        "lb": {"vgg11-bsp": 0.05},
    }
    for source in specs.SOURCES:
        for arm, made in specs.grids(source, "smoke", root).items():
            for spec in made:
                tree.record(spec, 101, root, top1=0.6 if spec.schedule["lr"] == best[source].get(arm, 0.1) else 0.3)
    (root / "data/learning_rates/smoke.json").unlink()
    text = done(capsys, "tune")
    assert "e1 central: learning rate 0.1\n" in text
    assert "e1 large-batch: learning rate 1.6  (at the edge of the grid" in text
    assert "e2 large-batch: learning rate 0.0125  (at the edge of the grid" in text
    assert "e2 federated: learning rate 0.4\n" in text
    assert "e3: no learning-rate grid, its rates are given\n" in text
    assert "lb vgg11-bsp: learning rate 0.05  (at the edge of the grid" in text
    assert specs.find("e1-large-batch", "smoke", root).schedule["lr"] == 1.6
    assert specs.find("e2-federated-gq", "smoke", root).schedule["lr"] == 0.4


def test_plan_adds_up_recorded_times_and_counts_what_was_never_timed(root: Path, capsys) -> None:
    for run, fingerprint in (("e1-central", None), ("e1-federated", "0" * 64)):
        path = stored(root, run, **({} if fingerprint is None else {"fingerprint": fingerprint}))
        provenance = {"seconds": 1800.0, "machine": {"device": "abacus"}}
        files.write_atomic(records.provenance_path(path), files.canonical_json(provenance))
    planned = json.loads(done(capsys, "plan", "--json"))["groups"]
    assert [(p["source"], p["group"]) for p in planned] == [(s, g) for s in specs.SOURCES for g in specs.GROUPS]
    artefact, grid, control, *others = planned
    assert (artefact["core_hours"], artefact["core_hours_to_do"]) == (2.0, 1.5), "the other seed of both takes as long"
    assert (artefact["runs"], artefact["runs_without_a_time"]) == (RUNS["e1"], RUNS["e1"] - 4)
    assert artefact["measured_on"] == ["abacus"]
    assert (grid["core_hours"], grid["runs_without_a_time"], control["runs"]) == (0.0, 48, 8)
    counts = [RUNS["e2"], 21, 16, RUNS["e3"], 0, 26, RUNS["lb"], 50, 168]
    assert [(p["runs"], p["runs_without_a_time"], p["core_hours"]) for p in others] == [(n, n, 0.0) for n in counts]
    assert "abacus" in done(capsys, "plan")
    assert "not recorded" in done(capsys, "plan")


def test_plan_of_a_figure_a_statement_and_a_run(root: Path, capsys) -> None:
    path = stored(root, "e1-central")
    provenance = {"seconds": 3600.0, "machine": {"device": "abacus"}, "peak_memory": 2_000_000}
    files.write_atomic(records.provenance_path(path), files.canonical_json(provenance))
    found = json.loads(done(capsys, "plan", "e1.fig1", "e1.c6", "e1-central", "--json"))
    figure, statement, run = found["groups"]
    assert (found["total"]["runs"], found["total"]["core_hours"]) == (30, 2.0), "what stands behind two ids counts once"
    assert (figure["id"], figure["runs"], figure["core_hours"]) == ("e1.fig1", 6, 2.0)
    assert (statement["runs"], statement["core_hours"]) == (24, 0.0), "eight rates of each of the three arms"
    assert (run["runs"], run["peak_memory_bytes"], run["core_hours_to_do"]) == (2, 2_000_000, 1.0)
    assert run["disk_bytes"] > path.stat().st_size
    assert "'e9.fig1'" in refused(capsys, "plan", "e9.fig1")


def test_arithmetic_is_printed_for_readers_and_programs(root: Path, capsys) -> None:
    found = json.loads(done(capsys, "arithmetic", "--json"))
    assert "e1.rounds-per-epoch" in {line["id"] for line in found}
    assert "50\u202f000 / 3\u202f072" in done(capsys, "arithmetic")


def test_verdicts_without_runs_judge_nothing_and_are_stored_only_when_asked(root: Path, capsys) -> None:
    found = json.loads(done(capsys, "verdicts", "--json"))
    assert {v["id"] for v in found} == {s.id for s in judge.load_published(root).statements}
    for source in specs.SOURCES:  # a definition is checked by running the code itself
        ours = {v["verdict"] for v in found if v["source"] == source and v["kind"] != "definition"}
        assert ours == {rules.NOT_RUN}
    assert not (root / "figures").exists()
    done(capsys, "verdicts", "--write", "--source", "e1")
    assert files.read_json(root / "figures/smoke/verdicts.json") == found


def test_a_stale_record_is_not_judged(root: Path, capsys) -> None:
    (statement,) = (s for s in judge.load_published(root).statements if s.id == "e1.c4")
    checks = [check for part in statement.judge["parts"] for check in part.get("checks", [])]
    numbers = {name: 1.0 for check in checks for name in (check["number"], check["limit"])}

    def verdict() -> str:
        found = {v["id"]: v for v in json.loads(done(capsys, "verdicts", "--json"))}
        return found["e1.c4"]["verdict"]

    stored(root, "e1-union-law", law=numbers, rows=[], series={})
    assert verdict() != rules.NOT_RUN
    stored(root, "e1-union-law", law=numbers, rows=[], series={}, fingerprint="0" * 64)
    assert verdict() == rules.NOT_RUN
    assert re.match(r"e1.c4 +stale +n=0  missing: e1-union-law \(stale\)", done(capsys, "verdicts", "e1.c4"))
    assert re.match(r"e1.c1 +not run +n=0 ", done(capsys, "verdicts", "e1.c1")), "no record of it is here"


# Ends ---------------------------------------------------------------------------------------------------------


def test_an_error_of_the_package_is_one_line_and_a_bug_is_a_traceback(monkeypatch, capsys) -> None:
    def fail(error: BaseException):
        def command(*_: object, **__: object) -> None:
            raise error

        return command

    monkeypatch.setattr(list_command, "load_published", fail(ReproError("what; expected; do this")))
    assert refused(capsys, "list") == "repro: what; expected; do this\n"
    monkeypatch.setattr(list_command, "load_published", fail(ZeroDivisionError("a bug")))
    with pytest.raises(ZeroDivisionError):
        cli.main(["list"])


def test_a_full_disk_is_one_line_and_leaves_the_old_verdicts(root: Path, monkeypatch, capsys) -> None:
    done(capsys, "verdicts", "--write")
    before = (root / "figures/smoke/verdicts.json").read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    assert "No space left on device" in refused(capsys, "verdicts", "--write")
    assert [p.read_bytes() for p in (root / "figures/smoke").iterdir()] == [before]


def test_records_of_another_folder_or_profile_are_not_listed(root: Path, capsys) -> None:
    stored(root)
    assert "s1:completed" in done(capsys, "list")
    assert "s1:completed" not in done(capsys, "list", "--profile", "study")
