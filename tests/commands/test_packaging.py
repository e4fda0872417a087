"""Laws of the packaging: one set of pins behind pip, conda and the documented commands."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import tomllib
from importlib.metadata import requires, version
from pathlib import Path
from types import ModuleType

import pytest
import tree
import yaml
from packaging.requirements import Requirement

import repro

ROOT = tree.REPOSITORY
REQUIREMENTS = ROOT / "requirements"
LOCKS = sorted(REQUIREMENTS.glob("*.lock"))


def load_compile() -> ModuleType:
    spec = importlib.util.spec_from_file_location("compile_requirements", REQUIREMENTS / "compile.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


COMPILE = load_compile()


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs make as from a fresh shell, since these tests may themselves run under make."""
    return subprocess.run(
        ["make", *arguments],
        cwd=folder,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )


def pinned() -> dict[str, str]:
    """Returns the version of every locked package, and of torch, by normalised name."""
    lines = [pin for name in COMPILE.LOCKS for pin in COMPILE.pins(name)]
    lines += (REQUIREMENTS / "torch.txt").read_text().splitlines()
    versions: dict[str, str] = {}
    for line in lines:
        name, version = line.partition(" ;")[0].split("==")
        assert versions.setdefault(COMPILE.project_name(name), version) == version, f"{name}: two versions"
    return versions


def direct() -> list[str]:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project = pyproject["project"]
    groups = [pyproject["build-system"]["requires"], project["dependencies"]]
    extras = project["optional-dependencies"]
    locked = [extras[name] for name in extras if name != "cluster"]  # a cluster's versions are its administrators'
    return [line for group in [*groups, *locked] for line in group]


@pytest.mark.parametrize("line", direct())
def test_every_direct_dependency_is_pinned_to_a_version_that_pyproject_allows(line: str) -> None:
    requirement = Requirement(line)
    version = pinned().get(COMPILE.project_name(requirement.name))
    assert version is not None, f"{line}: in no lock file; run `make lock`"
    assert requirement.specifier.contains(version), f"{line} excludes the locked {version}; run `make lock`"


def test_every_locked_package_has_hashes() -> None:
    for path in LOCKS:
        entries = re.split(r"\n(?=[A-Za-z0-9])", path.read_text())
        unhashed = [entry.split()[0] for entry in entries[1:] if "--hash=sha256:" not in entry]
        assert not unhashed, path.name


def test_locks_name_no_registry_and_no_address() -> None:
    files = [*LOCKS, REQUIREMENTS / "torch.txt", ROOT / "environment.yml"]
    for path in files:
        assert not re.search(r"://|--(?:extra-)?index-url|--find-links|\bpypi\b|@\s", path.read_text()), path.name


def test_torch_and_torchvision_are_in_no_lock_and_their_versions_in_one_place() -> None:
    """torchvision requires one version of torch: where pip takes both, it takes no torch beside the pinned one."""
    number = r"\d+\.\d+\.\d+"
    assert re.fullmatch(rf"torch=={number}\ntorchvision=={number}\n", (REQUIREMENTS / "torch.txt").read_text())
    locked = [COMPILE.project_name(pin) for name in COMPILE.LOCKS for pin in COMPILE.pins(name)]
    assert not [name for name in locked if name.startswith(("torch", "nvidia", "cuda", "triton"))]
    for name in ("Makefile", ".ci/run", "pyproject.toml", "requirements/compile.py"):
        text = (ROOT / name).read_text()
        assert not [pin for pin in COMPILE.torch_pins().values() if pin in text], f"{name} repeats a version"


def test_the_pinned_torchvision_is_that_of_the_pinned_torch() -> None:
    (torch,) = (line for line in map(Requirement, requires("torchvision") or []) if line.name == "torch")
    assert version("torchvision").partition("+")[0] == pinned()["torchvision"]
    assert torch.specifier.contains(pinned()["torch"])


def test_environment_yml_holds_the_pins_of_the_locks() -> None:
    text = (ROOT / "environment.yml").read_text()
    assert text == COMPILE.environment(), "environment.yml differs from requirements/; run `make lock`"
    packages = next(entry["pip"] for entry in yaml.safe_load(text)["dependencies"] if isinstance(entry, dict))
    listed = {
        COMPILE.project_name(line): line.partition(" ;")[0].partition("==")[2]
        for line in packages
        if "==" in line.partition(" ;")[0]
    }
    assert listed == pinned()


def test_make_alone_lists_the_targets_that_the_readme_names() -> None:
    listing = make(ROOT).stdout
    listed = set(re.findall(r"^  ([a-z-]+)  ", listing, flags=re.MULTILINE))
    readme = (ROOT / "README.md").read_text()
    commands = re.findall(r"^make ([a-z-]+)", readme, flags=re.MULTILINE)
    assert commands[:2] == ["reproduce", "test"], "README's first two commands"
    assert set(re.findall(r"\bmake ([a-z-]+)\b(?=`|$| [A-Z_]+=)", readme, flags=re.MULTILINE)) <= listed


def test_the_records_that_the_readme_repeats_are_there() -> None:
    named = re.findall(r"python -m repro rerun (\S+) --seed (\d+)", (ROOT / "README.md").read_text())
    assert len(named) >= 2
    for run, seed in named:
        assert list(ROOT.glob(f"data/records/study/*/{run}.s{seed}.json")), f"{run}, seed {seed}: has no record"


@pytest.mark.parametrize("name", ["jupyterlab", "seaborn", "torchvision"])
def test_what_users_of_the_field_expect_is_installed_as_pinned(name: str) -> None:
    assert version(name).partition("+")[0] == pinned()[name]


def test_make_lab_opens_jupyterlab_on_the_notebooks_from_the_root() -> None:
    command = make(ROOT, "--dry-run", "lab", "LAB_ARGS=--no-browser").stdout.splitlines()[-1]
    assert command.endswith("python -m jupyterlab --LabApp.default_url=/lab/tree/notebooks --no-browser")
    assert (ROOT / "notebooks").is_dir()


def test_ci_calls_the_test_command_of_the_readme() -> None:
    assert "grep -m 1 -o '^make test' README.md" in (ROOT / ".ci/run").read_text()
    assert re.search(r"^make test\b", (ROOT / "README.md").read_text(), flags=re.MULTILINE)


def test_containers_install_what_make_installs_in_the_same_order() -> None:
    words = r"--require-hashes|--no-build-isolation|--no-deps|requirements/[a-z.]+|--editable \."
    of_make, of_containers = (
        [re.findall(words, line) for line in (ROOT / path).read_text().splitlines() if re.match(call, line)]
        for path, call in (("Makefile", r"\t@\$\(PIP\) "), (".binder/postBuild", r"\$pip "))
    )
    assert of_containers[-1] == ["--no-deps", "--no-build-isolation", "--editable ."]
    assert of_containers == of_make[: len(of_containers)]
    assert os.access(ROOT / ".binder/postBuild", os.X_OK)
    for path in ("Dockerfile", ".devcontainer/devcontainer.json"):
        assert ".binder/postBuild" in (ROOT / path).read_text()
    assert "run: .ci/run" in (ROOT / ".github/workflows/check.yml").read_text()


def test_the_distribution_has_a_name_of_its_own_and_says_that_it_is_typed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["name"] != "repro"
    assert project["tool"]["setuptools"]["package-data"]["repro"] == ["py.typed"]
    assert (ROOT / "repro/py.typed").is_file()


def test_dvc_reports_nothing_to_anyone() -> None:
    config = (ROOT / ".dvc/config").read_text()
    assert "analytics = false" in config
    assert "check_update = false" in config


def test_the_citation_names_the_version_of_the_package() -> None:
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == repro.__version__


def make_in_copy(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    for name in ("Makefile", "requirements"):
        (tmp_path / name).symlink_to(ROOT / name)
    return make(tmp_path, *arguments)


def test_an_old_python_is_named_in_one_line(tmp_path: Path) -> None:
    old = tmp_path / "old-python"
    old.write_text("#!/bin/sh\n[ \"$1\" = --version ] && echo 'Python 3.8.10'\nexit 1\n")
    old.chmod(0o755)
    outcome = make_in_copy(tmp_path, "env", f"PYTHON={old}")
    assert outcome.returncode != 0
    line, _make_closing_line = outcome.stderr.strip().splitlines()
    assert "needs Python 3.11 or newer" in line
    assert "Python 3.8.10" in line


def test_a_folder_that_is_no_environment_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "work.txt").write_text("kept")
    outcome = make_in_copy(tmp_path, "env", "VENV=mine")
    assert outcome.returncode != 0
    assert "not a Python environment" in outcome.stderr
    assert (tmp_path / "mine" / "work.txt").read_text() == "kept"
