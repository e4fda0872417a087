"""The pipeline files declare what the code makes, and the locks belong to the files beside them."""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tree
import yaml

from repro import report
from repro.commands import pipelines
from repro.registry import specs
from repro.report import pilot

ROOT = tree.REPOSITORY
PIPELINES = sorted(
    path.relative_to(ROOT) for path in [ROOT / "dvc.yaml", *(ROOT / "pipelines").rglob("dvc.yaml")] if path.exists()
)
REQUIRED = [Path(), Path("pipelines/data"), Path("pipelines/smoke"), Path("pipelines/study")]
LOCKED = sorted({*REQUIRED, *(p.parent for p in PIPELINES if (ROOT / p).with_name("dvc.lock").exists())})


def stages(path: Path) -> dict[str, dict[str, Any]]:
    """Stages of one dvc.yaml by name, ``foreach`` unrolled and ``${...}`` filled in."""
    content, folder = yaml.safe_load((ROOT / path).read_text()), (ROOT / path).parent
    values = {}
    for params in ["params.yaml", *content.get("vars", [])]:
        if (folder / params).exists():
            values |= yaml.safe_load((folder / params).read_text())

    def filled(value: Any, names: dict[str, Any]) -> Any:
        return json.loads(re.sub(r"\$\{(\w+)\}", lambda match: str(names[match[1]]), json.dumps(value)))

    found = {}
    for name, stage in content["stages"].items():
        if "foreach" in stage:
            found |= {f"{name}@{item}": filled(stage["do"], values | {"item": item}) for item in stage["foreach"]}
        else:
            found[name] = filled(stage, values)
    return found


def outs(stage: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Outputs of a stage with their options, relative to its working directory."""
    declared: dict[str, dict[str, Any]] = {}
    for out in stage.get("outs", []):
        declared |= out if isinstance(out, dict) else {out: {}}
    return declared


def every_stage() -> Iterator[tuple[Path, str, dict[str, Any]]]:
    for path in PIPELINES:
        for name, stage in stages(path).items():
            yield path, name, stage


def where(path: Path, stage: dict[str, Any], name: str) -> Path:
    """A dependency or output of a stage, from the root of the repository."""
    return ((ROOT / path).parent / stage.get("wdir", ".") / name).resolve().relative_to(ROOT)


# Declarations -------------------------------------------------------------------------------------------------


def test_the_files_are_what_the_code_declares() -> None:
    for path, content in pipelines.written(ROOT).items():
        assert (ROOT / path).read_text() == content, f"{path}: run `python -m repro pipelines`"
    others = {Path("pipelines/data/dvc.yaml")}
    assert set(PIPELINES) == {*pipelines.written(ROOT), *others}


def test_the_stages_of_all_profiles_are_the_same() -> None:
    """Apart from what only the study depends on, and from figures that neither it nor the pilot has yet."""
    made = {path: yaml.safe_load(content)["stages"] for path, content in pipelines.written(ROOT).items()}
    for name in ("dvc.yaml", "controls/dvc.yaml"):
        smoke, study, paper = (made[Path("pipelines", profile, name)] for profile in specs.PROFILES)
        assert smoke == paper
        missing = {
            f"notebook-{path.stem}"
            for path in (ROOT / "notebooks").glob("*.ipynb")
            if pilot.without_notebook(path.stem, ROOT)
        }
        assert set(smoke) - set(study) == (missing if name == "dvc.yaml" else set())
        for stage, of_study in study.items():
            more = set(of_study["deps"]) - set(smoke[stage]["deps"])
            assert more <= set(pipelines.OF_THE_STUDY), stage
            assert "data/study.yaml" in more, stage
            assert set(outs(of_study)) <= set(outs(smoke[stage])), stage


def test_a_profiles_file_names_its_own_profile_and_a_sources_file_its_own_source() -> None:
    for profile in specs.PROFILES:
        assert yaml.safe_load((ROOT / f"pipelines/{profile}/params.yaml").read_text())["profile"] == profile
    for source in specs.SOURCES:
        assert yaml.safe_load((ROOT / f"pipelines/{source}.yaml").read_text())["source"] == source
    assert {p.name for p in (ROOT / "pipelines").iterdir()} == {
        *specs.PROFILES,
        "data",
        *(f"{s}.yaml" for s in specs.SOURCES),
    }


@pytest.mark.parametrize("profile", specs.PROFILES)
def test_every_file_that_render_writes_is_declared_and_nothing_else(profile: str) -> None:
    """Figures of controls are made by `make controls` and are, like its records, outputs of no stage."""
    for source in specs.SOURCES:
        stage = stages(Path(f"pipelines/{profile}/dvc.yaml"))[f"figures-{source}"]
        made = {
            f"figures/{profile}/{name}"
            for i, a in report.ARTEFACTS.items()
            if a.source == source and a.group == "artefact"
            for name in report.outputs(i)
        }
        declared = set(outs(stage))
        assert declared <= made
        for path in made - declared:
            assert profile == "study", path
            old = ROOT / path.replace("figures/study", "figures/pilot")
            assert not old.exists(), f"{path}: the pilot has it, so that it can be declared"
            assert not (ROOT / path).exists(), f"{path}: drawn, so that it can be declared"


def test_the_site_depends_on_every_artefact_record_and_spec() -> None:
    """By folders, so that a new source needs no entry but its spec."""
    profile = specs.default_profile(ROOT)
    stage = stages(Path("dvc.yaml"))["book"]
    folders = {"figures", "data/records", "data/provenance"}
    assert {f"{folder}/{profile}" for folder in folders} <= set(stage["deps"])
    assert {f"pipelines/{source}.yaml" for source in specs.SOURCES} <= set(stage["deps"])
    assert set(outs(stage)) == {"book"}


MODULES = {
    "book": "repro.book", "notebook": "repro.book.notebooks", "render": "repro.report.pilot",
    "sweep": "repro.running.sweep", "tune": "repro.running.tuning", "verdicts": "repro.report.pilot",
}  # fmt: skip
"""Command of a stage -> the module that does its work."""


def code_of(module: str) -> set[Path]:
    """Files of the module and of all that it imports from this package, lazily or not."""
    found, waiting = set[Path](), {module}
    while waiting:
        place = Path(*waiting.pop().split("."))
        path = place / "__init__.py" if (ROOT / place).is_dir() else place.with_suffix(".py")
        if path in found or not (ROOT / path).exists():  # a name in a module, not a module
            continue
        found.add(path)
        for imports, names in tree.imported(ROOT / path).items():
            waiting |= {imports, *(f"{imports}.{name}" for name in names)}
    return found - {Path("repro/__init__.py")}


def test_stages_depend_on_all_code_that_their_commands_import() -> None:
    for path, name, stage in every_stage():
        commands = stage["cmd"] if isinstance(stage["cmd"], list) else [stage["cmd"]]
        deps = {where(path, stage, dep) for dep in stage.get("deps", [])}
        for module in {MODULES[word] for command in commands if (word := command.split()[3]) in MODULES}:
            missing = {file for file in code_of(module) if not {file, *file.parents} & deps}
            assert not missing, (path, name, missing)


def test_every_run_of_a_profile_belongs_to_the_sweep_of_a_stage() -> None:
    from repro import cli

    seen = set()
    for profile in specs.PROFILES:
        for name in ("dvc.yaml", "controls/dvc.yaml"):
            for stage in stages(Path(f"pipelines/{profile}/{name}")).values():
                commands = stage["cmd"] if isinstance(stage["cmd"], list) else [stage["cmd"]]
                sweeps = [cli.parser().parse_args(c.split()[3:]) for c in commands if " sweep " in c]
                seen |= {(profile, s.source, s.group) for s in sweeps}
    groups = ((p, s, g) for p in specs.PROFILES for s in specs.SOURCES for g in specs.GROUPS)
    assert seen == {(p, s, g) for p, s, g in groups if specs.runs_and_waiting(s, p, g, ROOT) != ([], [])}


def test_nothing_is_cached_because_everything_is_committed() -> None:
    for path, name, stage in every_stage():
        for out, options in outs(stage).items():
            assert options.get("cache") is False, f"{path}: {name}: {out}"


def test_finished_runs_are_kept_when_a_stage_runs_again() -> None:
    for path, name, stage in every_stage():
        for out, options in outs(stage).items():
            assert options.get("persist", False) is out.startswith("data/records/"), f"{path}: {name}: {out}"


def test_no_file_has_two_makers_and_controls_are_outputs_of_none() -> None:
    made = [where(path, stage, out) for path, _, stage in every_stage() for out in outs(stage)]
    assert len(set(made)) == len(made)
    assert not [path for path in made if "_controls" in str(path) or "learning_rates" in str(path)]


def test_every_dependency_is_made_by_a_stage_or_is_a_file_of_the_package() -> None:
    made = {where(path, stage, out) for path, _, stage in every_stage() for out in outs(stage)}
    waiting = re.compile(
        r"data/(records/\w+/\w+_controls|learning_rates/\w+\.json|provenance/paper/\w+)"
    )  # made by runs
    for path, name, stage in every_stage():
        for dep in stage.get("deps", []):
            place = where(path, stage, dep)
            assert place in made or waiting.fullmatch(str(place)) or (ROOT / place).exists(), f"{path}: {name}: {dep}"


def test_every_stage_runs_a_command_that_exists_with_its_own_profile() -> None:
    from repro import cli

    for path, name, stage in every_stage():
        commands = stage["cmd"] if isinstance(stage["cmd"], list) else [stage["cmd"]]
        for command in commands:
            python, module, package, *arguments = command.split()
            assert (python, module, package) == ("python", "-m", "repro"), f"{path}: {name}"
            options = cli.parser().parse_args(arguments)
            if path.parts[0] == "pipelines" and path.parts[1] in specs.PROFILES:
                assert options.profile == path.parts[1], f"{path}: {name}"


@pytest.mark.parametrize("profile", specs.PROFILES)
def test_from_no_records_controls_and_then_the_rest_find_all_that_they_read(profile: str) -> None:
    """The order of `make smoke` and, at full scale, of `make reproduce`; the other one reads what is not there."""

    def missing(files: tuple[str, str]) -> set[tuple[str, str]]:
        done: set[str] = set()
        there: set[Path] = set()
        lacking = set()

        def run(name: str) -> None:
            if name in done:
                return
            done.add(name)
            for dep in deps[name]:
                if dep in maker:  # as DVC does: what a stage needs, other stages make before
                    run(maker[dep])
                if dep.parts[:2] in (("data", "records"), ("data", "learning_rates")) and dep not in there:
                    lacking.add((name, str(dep)))
            there.update(made[name])

        for file in files:
            first = [name for name in of_file[file] if name.startswith("rates-")]  # as the Makefile has them
            for name in [*first, *of_file[file]]:
                run(name)
        return lacking

    main, controls = f"pipelines/{profile}/dvc.yaml", f"pipelines/{profile}/controls/dvc.yaml"
    of_file: dict[str, list[str]] = {}
    deps: dict[str, list[Path]] = {}
    made: dict[str, set[Path]] = {}
    maker: dict[Path, str] = {}
    for file in (main, controls):
        found = stages(Path(file))
        of_file[file] = list(found)
        for name, stage in found.items():
            deps[name] = [where(Path(file), stage, dep) for dep in stage.get("deps", [])]
            made[name] = {where(Path(file), stage, out) for out in outs(stage)}
            maker |= dict.fromkeys(made[name], name)
            for command in stage["cmd"] if file == controls else []:
                if " sweep " in command:
                    made[name].add(Path("data") / "records" / profile / f"{name.rpartition('-')[2]}_controls")
                if " tune " in command:
                    made[name].add(specs.learning_rates_path(profile))
    assert missing((controls, main)) == set()
    assert {dep for _, dep in missing((main, controls))} > {str(specs.learning_rates_path(profile))}


def test_rates_are_chosen_before_they_are_used_and_controls_drawn_beside_runs_wait_for_these() -> None:
    of_controls = stages(Path("pipelines/smoke/controls/dvc.yaml"))
    for source in specs.SOURCES:
        stage = of_controls[f"controls-{source}"]
        commands = [*of_controls.get(f"rates-{source}", {"cmd": []})["cmd"], *stage["cmd"]]
        steps = [command.split()[3] + (" grid" if "--group grid" in command else "") for command in commands]
        chooses = ["sweep grid", "tune"] if specs.grids(source, "smoke", ROOT) else []
        assert steps == [*chooses, "sweep", "render"]
        apart = f"rates-{source}" in of_controls
        assert apart == (bool(chooses) and f"data/records/smoke/{source}" in stage["deps"]), "those runs need rates"
        assert ("data/learning_rates/smoke.json" in stage["deps"]) == apart
        own = {spec.run for spec, _ in specs.runs(source, "smoke", "artefact", ROOT)}
        beside = any(own & set(a.runs) for a in report.ARTEFACTS.values() if (a.source, a.group) == (source, "control"))
        assert (f"data/records/smoke/{source}" in stage["deps"]) == beside


def test_the_makefile_chooses_rates_that_other_stages_wait_for_before_it_runs_controls() -> None:
    """DVC knows no order between them: a file that both read is an output of none."""
    text = (ROOT / "Makefile").read_text()
    for target in ("reproduce", "controls", "smoke"):
        recipe = re.search(rf"(?ms)^{target}:.*?(?=^\S)", text)
        assert recipe is not None
        rates = re.search(r"\$\(RATES\)|controls/dvc\.yaml:rates-lb", recipe[0])
        controls = re.search(r"\$\(CONTROLS\)|controls/dvc\.yaml$", recipe[0], re.MULTILINE)
        assert rates is not None, target
        assert controls is not None, target
        assert rates.start() < controls.start(), target


def test_every_path_that_the_makefile_names_exists() -> None:
    text = (ROOT / "Makefile").read_text()
    named = set(re.findall(r"pipelines/[\w$(){}./-]*dvc\.yaml", text))
    assert named
    for path in named:
        for profile in specs.PROFILES:
            assert (ROOT / re.sub(r"\$\(\w+\)", profile, path)).exists(), path


# Locks --------------------------------------------------------------------------------------------------------


def md5(path: Path) -> dict[str, Any]:
    """What DVC's lock says of a file or a folder: a folder's digest is that of the list of its files' digests."""
    if path.is_file():
        return {"md5": hashlib.md5(path.read_bytes()).hexdigest(), "size": path.stat().st_size}
    ignored = {"__pycache__", ".ipynb_checkpoints"}  # as in .dvcignore
    files = [p for p in path.rglob("*") if p.is_file() and not ignored & set(p.relative_to(path).parts)]
    listed = sorted(
        ({"md5": hashlib.md5(p.read_bytes()).hexdigest(), "relpath": p.relative_to(path).as_posix()} for p in files),
        key=lambda entry: entry["relpath"],
    )
    digest = hashlib.md5(json.dumps(listed, sort_keys=True).encode()).hexdigest()
    return {"md5": f"{digest}.dir", "size": sum(p.stat().st_size for p in files), "nfiles": len(files)}


def value(path: Path, key: str) -> Any:
    """The entry ``a.b`` of a YAML file."""
    found = yaml.safe_load(path.read_text())
    for part in key.split("."):
        found = found[part]
    return found


def test_folders_are_hashed_as_dvc_hashes_them(tmp_path: Path) -> None:
    """Against a lock that DVC 3.67 wrote for this folder."""
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/__pycache__").mkdir()
    (tmp_path / "a/x.json").write_text("1\n")
    (tmp_path / "a/b/y.json").write_text("2\n")
    (tmp_path / "a/__pycache__/z").write_text("z\n")
    assert md5(tmp_path / "a") == {"md5": "15119c5dbe7a4ed12ed0116a464943ad.dir", "size": 4, "nfiles": 2}


@pytest.mark.parametrize("folder", LOCKED, ids=lambda folder: str(folder))
def test_a_lock_belongs_to_the_files_as_they_are(folder: Path) -> None:
    """So `dvc repro` in a fresh clone has nothing to do, and no committed number is older than its code."""
    path = ROOT / folder / "dvc.lock"
    assert path.exists(), f"no {folder / 'dvc.lock'}; run `dvc repro` and commit it"
    locked, declared = yaml.safe_load(path.read_text())["stages"], stages(folder / "dvc.yaml")
    assert set(locked) == set(declared)
    stale = []
    for name, stage in declared.items():
        lock = locked[name]
        assert lock["cmd"] == stage["cmd"], f"{name}: the command changed"
        assert {dep["path"] for dep in lock.get("deps", [])} == set(stage.get("deps", [])), f"{name}: deps changed"
        assert {out["path"] for out in lock.get("outs", [])} == set(outs(stage)), f"{name}: outs changed"
        for entry in [*lock.get("deps", []), *lock.get("outs", [])]:
            place = ROOT / where(folder / "dvc.yaml", stage, entry["path"])
            assert entry["hash"] == "md5"
            found = md5(place) if place.exists() else {"md5": "missing"}
            stale += [entry["path"]] if any(entry.get(key) != found[key] for key in found) else []
        wanted = {(file, key) for params in stage.get("params", []) for file, keys in params.items() for key in keys}
        assert {(file, key) for file, keys in lock.get("params", {}).items() for key in keys} == wanted
        for file, key in wanted:
            now = value(ROOT / where(folder / "dvc.yaml", stage, file), key)
            stale += [f"{file}:{key}"] if lock["params"][file][key] != now else []
    assert not stale, f"{folder / 'dvc.lock'} is older than {', '.join(sorted(set(stale)))}; run `dvc repro`"
