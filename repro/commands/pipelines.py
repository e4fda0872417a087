"""``repro pipelines``: the files of DVC, written from what the code declares.

They are ``dvc.yaml`` at the root, and two for each profile.

The stages of all profiles are the same. Those of the study depend besides on ``data/study.yaml``, which says what is
planned, and on the pilot, which stands in until the study's own runs are in.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from repro import report
from repro.files import write_atomic
from repro.registry import notebook_files, specs, study
from repro.report import pilot

GROUND = [f"repro/{name}.py" for name in ("errors", "files", "plain_yaml", "randomness", "validation")]
DECLARED = [*GROUND, "repro/data", "repro/experiments", "repro/registry", "repro/results"]
RUNS = [
    *DECLARED, "repro/checkpoint.py", "repro/codecs", "repro/distributed", "repro/machine.py", "repro/models",
    "repro/performance", "repro/running", "repro/training",
]  # fmt: skip
"""What records are computed with."""
SHOWN = [*DECLARED, "repro/cli.py", "repro/codecs", "repro/commands", "repro/models", "repro/report", "repro/verdicts"]
"""What figures, tables and verdicts are made with."""
OF_THE_STUDY = ["data/published.yaml", "data/study.yaml", "figures/pilot"]

_GENERATED = (
    "# Written by `python -m repro pipelines` from what the code declares; a test holds it so. Do not edit it.\n"
)
_STAGES = """\
# The stages of one profile. Sizes and the profile's name are in params.yaml beside this file, and each profile has a
# lock of its own. Runs are spread over processes inside their stage; finished runs are kept while their fingerprint
# holds (persist).
"""
_CONTROLS = """\
# The second group of runs: learning-rate grids, then the runs and figures beyond the source's own. `make controls` runs
# it; plain `dvc repro` at the root does not. What it makes (data/records/<profile>/<source>_controls,
# data/learning_rates/<profile>.json and the figures of the group "control") is committed and read by other stages of
# the profile as plain files: were it declared here as outputs, it would become part of the default pipeline.
"""
_SITE = """\
# `dvc repro` here is the whole product: the stages of the profile that params.yaml names are this stage's ancestors.
# The site depends on whole folders, so that a new source appears by its data alone. The command also writes the
# headline verdicts between the markers of README.md, which is no output because the rest of that file is written by
# hand; a test holds them together.
"""


def run(options: Namespace, root: Path) -> int:
    """Print the files that were not as they should be."""
    for path in (changed := write(root)):
        print(path)
    print(f"{len(changed)} files of DVC written anew")
    return 0


def written(root: Path = Path()) -> dict[Path, str]:
    """Path from the root -> content of every file that this module writes.

    Raises:
        ReproError: malformed specs or records.
    """
    made = {Path("dvc.yaml"): _text(_SITE, {"stages": {"book": _book()}})}
    for profile in specs.PROFILES:
        folder = Path("pipelines", profile)
        stages = dict(stage for source in specs.SOURCES for stage in _of_source(source, profile, root))
        stages |= dict(_library(profile, root)) | {"verdicts": _verdicts(profile, root)}
        made[folder / "dvc.yaml"] = _text(_STAGES, {"stages": stages})
        controls = dict(stage for source in specs.SOURCES for stage in _controls(source, profile, root))
        made[folder / "controls/dvc.yaml"] = _text(_CONTROLS, {"vars": ["../params.yaml"], "stages": controls})
    return made


def write(root: Path = Path()) -> list[Path]:
    """Write the files that are not as they should be, and return their paths."""
    changed = []
    for path, content in written(root).items():
        target = root / path
        if not target.exists() or target.read_text(encoding="utf-8") != content:
            write_atomic(target, content)
            changed.append(target)
    return changed


def _text(comment: str, content: dict[str, Any]) -> str:
    return _GENERATED + comment + yaml.safe_dump(content, sort_keys=False, width=1000)


def _stage(wdir: str, cmd: str | list[str], deps: Iterable[str], outs: Iterable[str], **options: Any) -> dict[str, Any]:
    made: dict[str, Any] = {"wdir": wdir, "cmd": cmd}
    if "params" in options:
        made["params"] = [{"pipelines/${profile}/params.yaml": [options["params"]]}]
    made["deps"] = sorted(set(deps))
    if kept := [{out: {"cache": False} | options.get("kept", {})} for out in outs]:
        made["outs"] = kept
    return made


def _data(source: str, profile: str, root: Path) -> list[str]:
    """Manifests of the data sets that the runs of a source are made with."""
    tasks = (spec for group in specs.GROUPS for spec, _ in specs.runs_and_waiting(source, profile, group, root)[0])
    return [f"data/manifests/{name}.json" for name in sorted({spec.dataset for spec in tasks})]


def _rates(source: str, profile: str, root: Path) -> list[str]:
    return ["data/learning_rates/${profile}.json"] if specs.grids(source, profile, root) else []


def _declared(source: str, profile: str, root: Path) -> list[str]:
    """Files of the source's figures and tables; of the study only those that it or the pilot has."""
    drawn = report.present(profile, root)
    return [
        f"figures/${{profile}}/{name}"
        for artefact in report.ids(source, "artefact")
        if profile != study.PROFILE or artefact in drawn or pilot.has(artefact, root)
        for name in report.outputs(artefact)
    ]


def _of_source(source: str, profile: str, root: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    of_study = OF_THE_STUDY if profile == study.PROFILE else []
    common = [*_data(source, profile, root), *_rates(source, profile, root), f"pipelines/{source}.yaml"]
    records = f"data/records/${{profile}}/{source}"
    yield f"runs-{source}", _stage(
        "../..", f"python -m repro sweep --source {source} --profile ${{profile}} --only ${{runs}}",
        [*RUNS, *common, *of_study[:2]], [records], params=source, kept={"persist": True},
    )  # fmt: skip
    links = ["pipelines/e2.yaml"] if source == "lb" else []  # speeds of links, which the paper's tables count with too
    shown = [*SHOWN, *common, *of_study, *links, "data/looks.json", "pipelines/${profile}/params.yaml", records]
    yield f"figures-{source}", _stage(
        "../..", f"python -m repro render --source {source} --profile ${{profile}}",
        [*shown, f"data/provenance/${{profile}}/{source}"], _declared(source, profile, root),
    )  # fmt: skip
    for path in notebook_files.of_source(root / "notebooks", source):
        if profile == study.PROFILE and pilot.without_notebook(path.stem, root):
            continue
        yield f"notebook-{path.stem}", _stage(
            "../..", f"python -m repro notebook {path.stem} --profile ${{profile}}",
            [*RUNS, *shown, "repro/book/notebooks.py", "data/published.yaml", f"notebooks/{path.name}",
             f"{records}_controls"],
            [f"figures/${{profile}}/notebooks/{path.name}"],
        )  # fmt: skip


def _library(profile: str, root: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Notebooks of no source, which read no record."""
    of_study = OF_THE_STUDY if profile == study.PROFILE else []
    for path in notebook_files.of_none(root / "notebooks"):
        yield (
            f"notebook-{path.stem}",
            _stage(
                "../..",
                f"python -m repro notebook {path.stem} --profile ${{profile}}",
                [*RUNS, *SHOWN, *of_study, "repro/book/notebooks.py", f"notebooks/{path.name}"],
                [f"figures/${{profile}}/notebooks/{path.name}"],
            ),
        )


def _verdicts(profile: str, root: Path) -> dict[str, Any]:
    deps = [*SHOWN, "data/looks.json", "data/published.yaml", "pipelines/${profile}/params.yaml"]
    deps += OF_THE_STUDY if profile == study.PROFILE else []
    for source in specs.SOURCES:
        deps += [*_data(source, profile, root), *_rates(source, profile, root), f"pipelines/{source}.yaml"]
        deps += [f"data/records/${{profile}}/{source}{group}" for group in ("", "_controls")]
    outs = ["figures/${profile}/verdicts.json"]
    return _stage("../..", "python -m repro verdicts --write --profile ${profile}", deps, outs)


def _controls(source: str, profile: str, root: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Grids and controls of a source.

    Some controls are drawn beside the source's own runs, or read the record of one. Where such runs need a rate, the
    grids are a stage of their own, which ``make`` runs before all others.
    """
    of_study = OF_THE_STUDY if profile == study.PROFILE else []
    common = [*RUNS, *_data(source, profile, root), f"pipelines/{source}.yaml"]
    options = f"--source {source} --profile ${{profile}}"
    grid = [f"python -m repro sweep --group grid {options} --only ${{runs}}"]
    grid += [f"python -m repro tune {options} --only ${{runs}}"]
    control = [f"python -m repro sweep --group control {options} --only ${{runs}}"]
    control += [f"python -m repro render --group control {options}"]
    shown = [*common, *SHOWN, *of_study, "data/looks.json"]
    tasks, waiting = specs.runs_and_waiting(source, profile, "artefact", root)
    own = {spec.run for spec, _ in tasks} | {run for run, _ in waiting}
    reads_artefacts = any(own & set(report.ARTEFACTS[name].runs) for name in report.ids(source, "control"))
    apart = reads_artefacts and bool(specs.grids(source, profile, root))
    shown += [f"data/records/${{profile}}/{source}"] if reads_artefacts else []
    if apart:
        yield f"rates-{source}", _stage("../../..", grid, [*common, *of_study[:2]], [], params=source)
        shown += _rates(source, profile, root)
    elif specs.grids(source, profile, root):
        control = [*grid, *control]
    yield f"controls-{source}", _stage("../../..", control, shown, [], params=source)


def _book() -> dict[str, Any]:
    deps = [
        *RUNS, *SHOWN, "repro/book", "CITATION.cff", "data/ledger.yaml", "data/looks.json", "data/manifests",
        "data/power.json", "data/provenance/${profile}", "data/published.yaml", "data/records/${profile}",
        "data/sources.yaml", "data/study.yaml", "figures/${profile}", "figures/pilot", "notebooks",
        "pipelines/${profile}/params.yaml", *(f"pipelines/{source}.yaml" for source in specs.SOURCES),
    ]  # fmt: skip
    made = _stage(".", "python -m repro book --profile ${profile}", deps, ["book"])
    del made["wdir"]
    return made
