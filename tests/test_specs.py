"""A spec is what its files say, bad files are said in one line, and a profile shrinks sizes and nothing else."""

import contextlib
import dataclasses
import json
from pathlib import Path

import pytest
import tree
from hypothesis import given, settings
from hypothesis import strategies as st

from repro import files
from repro.errors import ReproError
from repro.experiments import numerics
from repro.registry import specs
from repro.results import measurements

SPEC, PARAMS = "pipelines/e1.yaml", "pipelines/smoke/params.yaml"
PROFILE = (SPEC, "at profile smoke")
PUBLISHED_WORKERS = {"e1": 96, "e2": 32}
PUBLISHED = 50_000 / (96 * 32)  # rounds per epoch of post 1 at full scale: 16.3


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tree.plant(tmp_path)


@pytest.fixture(scope="module")
def resolved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, specs.Spec]]:
    """Profile -> run id -> spec of every source, controls included."""
    place = tree.plant(tmp_path_factory.mktemp("tree"))
    return {
        profile: {
            s.run: s
            for source in specs.SOURCES
            for group in specs.GROUPS
            for s, _ in specs.runs(source, profile, group, place)
        }
        for profile in specs.PROFILES
    }


def refused(root: Path) -> str:
    """The one line that the planned runs are refused with; the grids and a search have a line to say, too."""
    with pytest.raises(ReproError) as caught:
        [specs.runs("e1", "smoke", group, root) for group in specs.GROUPS]
    with pytest.raises(ReproError):
        specs.find("e1-no-such-run", "smoke", root)
    with contextlib.suppress(ReproError):
        specs.runs("e1", "smoke", "grid", root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# What malformed files are answered with -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "old", "new", "says"),
    [
        # no YAML
        (SPEC, "defaults:", "\tdefaults:", ["not valid YAML at line 9", "found a tab character"]),
        (PARAMS, "seeds: [1, 2]", "seeds: [1, 2", ["not valid YAML at line"]),
        (PARAMS, "e1:", "e1: &a *b", ["not valid YAML at line"]),
        (PARAMS, "profile: smoke", "profile: smo\x07ke", ["not valid YAML"]),
        # wrong type
        (SPEC, "local_batch: 32", "local_batch: wide",
         ["key defaults.local_batch", "text ('wide')", "a whole number was expected"]),
        (SPEC, "local_batch: 32", "local_batch: 64.5",
         ["key defaults.local_batch", "a number (64.5)", "a whole number"]),
        (SPEC, "local_batch: 32", "local_batch: true",
         ["key defaults.local_batch", "true/false (True)", "a whole number"]),
        (SPEC, "local_batch: 32", "local_batch:", ["key defaults.local_batch", "empty", "a whole number was expected"]),
        (SPEC, "augment: true", "augment: 1", ["key defaults.augment", "a number (1)", "true or false was expected"]),
        (SPEC, "augment: true", 'augment: "yes"',
         ["key defaults.augment", "text ('yes')", "true or false was expected"]),
        (SPEC, "momentum: 0.0", "momentum: 'a'", ["key defaults.momentum", "text ('a')", "a number was expected"]),
        (SPEC, "momentum: 0.0", "momentum: true",
         ["key defaults.momentum", "true/false (True)", "a number was expected"]),
        (SPEC, "dataset: cifar10", "dataset: [cifar10]",
         ["key defaults.dataset", "a list (['cifar10'])", "text was expected"]),
        (SPEC, "schedule: {kind: constant}", "schedule: 0.1", ["key defaults.schedule", "a number (0.1)", "a mapping"]),
        (SPEC, "norm: batch", "norm: lay", ["key defaults.norm", "text ('lay')", "one of batch, group, layer, inst"]),
        (SPEC, "codec: dense", "codec: 3", ["key defaults.codec", "a number (3)", "text was"]),
        (SPEC, "codec: dense", "codec: dgz", ["key codec: 'dgz'", "1-bit, dense, dgc", "did you mean dgc"]),
        (SPEC, "codec: dense", "codec: int8+tar", ["key codec: 'int8+tar'", "alone or with +zip, was expected"]),
        (SPEC, "codec: dense", "codec: int8+", ["key codec: 'int8+'", "alone or with +zip, was expected"]),
        (SPEC, "codec: dense", "codec: dgc\n  codec_options: {clip: wide}",
         ["codec_options.clip: text ('wide')", "number or a list"]),
        (SPEC, "codec: dense", "codec: dgc\n  codec_options: {clip: .inf}",
         ["codec_options.clip: .inf; a finite number"]),
        (SPEC, "codec: dense", "codec: dense\n  weights: equal",
         ["key weights: 'equal' with method central", "federated was"]),
        (SPEC, "codec: dense", "codec: dense\n  weights: images2", ["key defaults.weights", "one of images, equal"]),
        (SPEC, "codec: dense", "codec: dense\n  local_momentum: kept",
         ["key defaults.local_momentum", "did you mean keep"]),
        (SPEC, "{method: federated, lr_grid: federated}", "fedavg", ["key runs.e1-federated", "a mapping was"]),
        (SPEC, "defaults:\n", "defaults: 3\nruns: {}\n#", ["not valid YAML"]),
        (PARAMS, "seeds: [1, 2]", "seeds: 3", [f"{PARAMS}, key e1.seeds", "a number (3)", "as a list of"]),
        (PARAMS, "seeds: [1, 2]", "seeds: [1, true]", [f"{PARAMS}, key e1.seeds", "[1, True]", "of whole numbers"]),
        (PARAMS, "seeds: [101]", "seeds: [a]", [f"{PARAMS}, key e1.grid.seeds", "['a']", "a list of whole numbers"]),
        (PARAMS, "width: 4", "width: four", [f"{PARAMS}, key e1.sizes.width", "text ('four')", "a whole number was"]),
        (PARAMS, "train_images: 2600", "train_images: true", [f"{PARAMS}, key e1.sizes.train_images", "true/false"]),
        (PARAMS, "precision: bf16", "precision: fp8", [f"{PARAMS}, key e1.sizes.precision", "fp64, fp32, bf16"]),
        (PARAMS, "epochs: 1\n", "epochs: 1.5\n", [f"{PARAMS}, key e1.grid.epochs", "a number (1.5)", "a whole number"]),
        (PARAMS, "held_out_images: 200", "held_out_images: all", [f"{PARAMS}, key e1.grid.held_out_images", "text"]),
        (SPEC, "lrs: [0.0125,", "lrs: [low,",
         [f"{SPEC}, key grid.lrs", "'low'", "learning rates, as a list of numbers"]),
        (SPEC, "central: e1-central", "central: [e1-central]", ["key grid.arms.central", "a list", "text was"]),
        # unknown key or name
        (SPEC, "  momentum: 0.0", "  momentun: 0.0\n  momentum: 0.0",
         ["key defaults", "'momentun'; did you mean momentum"]),
        (SPEC, "partition: labels,", "partitions: labels,",
         ["runs.e1-large-batch-2labels: unknown", "did you mean partition"]),
        (SPEC, "runs:\n", "notes: none\nruns:\n", [SPEC, "unknown key 'notes'", "source, defaults, runs, "]),
        (SPEC, "  lrs:", "  seeds: [4]\n  lrs:", [f"{SPEC}, key grid", "unknown key 'seeds'", "lrs, rates, arms"]),
        (PARAMS, "  seeds: [1, 2]", "  seeds: [1, 2]\n  epochs: 4", [f"{PARAMS}, key e1", "unknown key 'epochs'"]),
        (PARAMS, "    seeds: [101]", "    seeds: [101]\n    lrs: [1]", [f"{PARAMS}, key e1.grid", "unknown key 'lrs'"]),
        (SPEC, "central: e1-central", "central: e1-middle", ["grid.arms.central: ", "'e1-middle'", "e1-central"]),
        (SPEC, "schedule: {kind: constant}", "schedule: {kind: linear}",
         ["key defaults.schedule.kind", "'linear'", "constant"]),
        # missing
        (SPEC, "  momentum: 0.0\n", "", [SPEC, "run e1-central", "key 'momentum' is missing"]),
        (SPEC, "  train_images: 50000\n", "", [SPEC, "run e1-central: key 'train_images' is missing"]),
        (SPEC, "defaults:", "default:", [SPEC, "unknown key 'default'"]),
        (SPEC, "lr_grid: central}", "lr_grid: null}", ["run e1-central, key schedule.lr: missing"]),
        (PARAMS, "  seeds: [1, 2]\n", "", [f"{PARAMS}, key e1.seeds: missing", "add it"]),
        (PARAMS, "    epochs: 1\n", "", [f"{PARAMS}, key e1.grid.epochs", "empty", "a whole number was expected"]),
        (PARAMS, "    seeds: [101]\n", "", [f"{PARAMS}, key e1.grid.seeds: empty", "add it"]),
        (PARAMS, "e1:", "e1: {}\nxy:", [f"{PARAMS}: unknown key 'xy'"]),
        # out of range
        (SPEC, "local_batch: 32", "local_batch: -32",
         ["key defaults.local_batch", "-32", "a number from 1 up was expected"]),
        (SPEC, "momentum: 0.0", "momentum: -0.5", ["key defaults.momentum", "-0.5", "a number from 0 up was"]),
        (SPEC, "momentum: 0.0", "momentum: 1.0", ["key defaults.momentum", "1.0", "a number up to 0.9999 was"]),
        (SPEC, "momentum: 0.0", "momentum: .nan", ["key defaults.momentum", "nan", "a finite number was"]),
        (SPEC, "labels_per_client: 2}", "labels_per_client: 0}", ["runs.e1-large-batch-2labels.labels_per_client"]),
        (SPEC, "evaluate_every: 1", "evaluate_every: 0", ["key defaults.evaluate_every", "0", "a number from 1 up"]),
        (SPEC, "lr: 0.1}", "lr: -0.1}", ["key runs.e1-union-law.schedule.lr", "-0.1", "a positive"]),
        (SPEC, "lr: 0.1}", "lr: .nan}", ["line 73, key runs.e1-union-law.schedule.lr", "nan", "a finite"]),
        (PARAMS, "train_images: 2600", "train_images: 0",
         [f"{PARAMS}, key e1.sizes.train_images", "(0); a number from 1"]),
        (PARAMS, "image_size: 8", "image_size: 2", [f"{PARAMS}, key e1.sizes.image_size", "(2); a number from 4"]),
        (PARAMS, "epochs: 1\n", "epochs: 0\n", [f"{PARAMS}, key e1.grid.epochs", "(0); a number from 1"]),
        # seeds and learning rates
        (PARAMS, "seeds: [101]", "seeds: [2]", [f"{PARAMS}, key e1.grid.seeds", "shares a seed", "seeds of its own"]),
        (PARAMS, "seeds: [1, 2]", "seeds: [1, 1]", [f"{PARAMS}, key e1.seeds", "[1, 1]", "different seeds from 0 up"]),
        (PARAMS, "seeds: [1, 2]", "seeds: [-1, 2]", [f"{PARAMS}, key e1.seeds", "[-1, 2]", "different seeds from 0"]),
        (PARAMS, "seeds: [1, 2]", "seeds: []", [f"{PARAMS}, key e1.seeds", "[]", "one or more"]),
        (PARAMS, "seeds: [101]", "seeds: []", [f"{PARAMS}, key e1.grid.seeds", "[]", "one or more"]),
        (SPEC, "lrs: [0.0125, 0.025", "lrs: [0.025, 0.025", [f"{SPEC}, key grid.lrs", "different learning rates"]),
        # what a profile may not do
        (PARAMS, "width: 4", "width: 4\n    local_batch: 8",
         [f"{PARAMS}, key e1.sizes: ", "'local_batch'", "may set only"]),
        (PARAMS, "width: 4", "width: 4\n    workers: 2", [f"{PARAMS}, key e1.sizes: unknown key 'workers'"]),
        (PARAMS, "width: 4", "width: 4\n    momentum: 0.9",
         [f"{PARAMS}, key e1.sizes: ", "'momentum'", "train_images"]),
        # what does not fit together
        (PARAMS, "train_images: 2600", "train_images: 1", ["run e1-large-batch", "2 workers for 1 images", *PROFILE]),
        (PARAMS, "epochs: 4", "epochs: 6", ["run e1-federated-4epochs", "6 epochs", "4 local epochs", *PROFILE]),
    ],
)  # fmt: skip
def test_a_malformed_file_is_said_in_one_line(file: str, old: str, new: str, says: list[str], root: Path) -> None:
    tree.edit(root / file, old, new)
    line = refused(root)
    assert file in line or "profile smoke" in line
    for part in says:
        assert part in line


def test_text_that_is_no_utf8_and_missing_files_are_said_in_one_line(root: Path) -> None:
    (root / PARAMS).write_bytes(b"\xff\xfeprofile")
    assert f"{PARAMS}: not text in UTF-8" in refused(root)
    (root / PARAMS).unlink()
    assert f"{PARAMS}: no such file" in refused(root)


@pytest.mark.parametrize(("text", "kind"), [("", "empty"), ("[1]", "a list"), ("3", "a number"), ("word", "text")])
@pytest.mark.parametrize("file", [SPEC, PARAMS])
def test_a_file_that_holds_no_mapping_is_refused(file: str, text: str, kind: str, root: Path) -> None:
    (root / file).write_text(text)
    assert f"{file}: the top level is {kind}" in refused(root)


def test_unknown_names_are_answered_with_the_known_ones(root: Path) -> None:
    with pytest.raises(ReproError, match="unknown run 'e1-federate'; did you mean e1-federated"):
        specs.find("e1-federate", "smoke", root)
    with pytest.raises(ReproError, match=r"did you mean .*e1-grid-central-lr0_1"):
        specs.find("e1-grid-central-lr0.1", "smoke", root)
    with pytest.raises(ReproError, match="unknown profile 'lap-top'; one of smoke, study, paper was expected"):
        specs.runs("e1", "lap-top", root=root)
    with pytest.raises(ReproError, match=f"unknown source 'e9'; one of {', '.join(specs.SOURCES)} was"):
        specs.runs("e9", "smoke", root=root)


@pytest.mark.parametrize("text", ["profile: lap-top", "profile: 3", "profil: study", "{}"])
def test_a_bad_default_profile_names_its_file_and_the_profiles(text: str, root: Path) -> None:
    (root / "params.yaml").write_text(text)
    with pytest.raises(
        ReproError,
        match=r"params\.yaml(, key profile: (.*smoke, study, paper|missing)|: unknown key .*mean profile)",
    ):
        specs.default_profile(root)


@pytest.mark.parametrize("source", tree.ARMS)
def test_missing_learning_rates_name_the_command_that_chooses_them(source: str, root: Path) -> None:
    path, arm = root / "data/learning_rates/smoke.json", tree.ARMS[source][0]
    for chosen in ({}, {source: {}}, {source: {arm: {}}}, {source: {arm: {"lr": None}}}, "{", []):
        path.write_text(chosen if isinstance(chosen, str) else json.dumps(chosen))
        says = f"no learning rate for grid {arm} of {source}; run `make controls PROFILE=smoke` again"
        with pytest.raises(ReproError, match=says):
            specs.runs(source, "smoke", root=root)
    path.unlink()
    with pytest.raises(ReproError, match="no learning rates chosen for profile smoke; run `make controls PROFILE=smo"):
        specs.runs(source, "smoke", root=root)
    assert specs.runs(source, "smoke", "grid", root), "the grids choose the rates, so they cannot wait for them"
    assert specs.find(f"{source}-grid-{arm}-lr0_1", "smoke", root).lr_grid == arm


def test_a_run_does_not_wait_for_the_learning_rates_of_another_source(root: Path) -> None:
    path = root / "data/learning_rates/smoke.json"
    rates = json.loads(path.read_text())
    for source, arms in tree.ARMS.items():
        path.write_text(json.dumps({source: rates[source]}))
        for arm in arms:
            assert specs.find(tree.of_arm(source, arm), "smoke", root).schedule["lr"] == 0.1


# What a spec says ---------------------------------------------------------------------------------------------


def test_an_arm_trains_with_the_learning_rate_of_its_grid(root: Path) -> None:
    rates = {"central": 0.1, "large-batch": 0.4, "large-batch-x2": 0.8, "federated": 0.2}
    rates |= {"central-momentum": 0.05, "federated-momentum": 0.025}
    chosen = json.dumps({"e1": {arm: {"lr": lr} for arm, lr in rates.items()}})
    (root / "data/learning_rates/smoke.json").write_text(chosen)
    found = {spec.run: spec.schedule["lr"] for spec, _ in specs.runs("e1", "smoke", root=root)}
    assert found["e1-central"] == 0.1
    assert found["e1-large-batch"] == found["e1-large-batch-2labels"] == 0.4
    assert found["e1-large-batch-x2"] == 0.8
    assert (found["e1-central-momentum"], found["e1-federated-momentum"]) == (0.05, 0.025)
    assert found["e1-federated"] == found["e1-federated-2labels"] == found["e1-federated-4epochs"] == 0.2


def test_a_compressed_run_trains_with_the_learning_rate_of_its_uncompressed_one(root: Path) -> None:
    chosen = {"e2": {"large-batch": {"lr": 0.05}, "federated": {"lr": 0.2}}}
    (root / "data/learning_rates/smoke.json").write_text(json.dumps(chosen))
    trained = [spec for spec, _ in specs.runs("e2", "smoke", root=root) if spec.kind == "train" and spec.lr_grid]
    assert {spec.codec for spec in trained} == {"dense", "int8", "dgc"}
    for spec in trained:
        assert spec.schedule["lr"] == {"large_batch": 0.05, "federated": 0.2}[spec.method], spec.run


@pytest.mark.parametrize("source", tree.ARMS)
def test_every_arm_gets_the_same_grid_budget_and_seeds(source: str, root: Path) -> None:
    grids = specs.grids(source, "smoke", root)
    budgets = {arm: [(s.epochs, s.evaluate_on, s.test_images) for s in made] for arm, made in grids.items()}
    assert set(grids) == set(tree.ARMS[source])
    budget = budgets[tree.ARMS[source][0]]
    assert all(other == budget for other in budgets.values())
    assert {on for _, on, _ in budget} == {"held_out"}, "test images must not choose a learning rate"
    planned = specs.runs(source, "smoke", "grid", root)
    assert {s.run: [seed for t, seed in planned if t.run == s.run] for s, _ in planned} == {
        s.run: [101] for made in grids.values() for s in made
    }


@pytest.mark.parametrize("profile", ["study", "paper"])
def test_every_arm_has_the_rates_of_its_source_or_as_many_of_its_own(profile: str, root: Path) -> None:
    for source in tree.ARMS:
        grid = files.read_yaml(root / f"pipelines/{source}.yaml")["grid"]
        for arm, made in specs.grids(source, profile, root).items():
            rates = [spec.schedule["lr"] for spec in made]
            assert rates == grid.get("rates", {}).get(arm, grid["lrs"]), arm
            assert len(rates) == len(grid["lrs"]), arm


def point(by_run: dict[str, specs.Spec], source: str, arm: str) -> str:
    """The first point of an arm's grid."""
    return next(run for run in by_run if run.startswith(f"{source}-grid-{arm}-lr"))


@pytest.mark.parametrize("source", tree.ARMS)
def test_a_grid_run_is_its_arm_but_for_what_a_grid_changes(source: str, resolved) -> None:
    sizes = {"epochs", "evaluate_every", "evaluate_at", "test_images", "final_test_images", "final_evaluations"}
    changed = sizes | {"train_images", "run", "group", "evaluate_on", "expects_divergence", "schedule", "lr"}
    for arm in tree.ARMS[source]:
        names = (point(resolved["study"], source, arm), tree.of_arm(source, arm))
        ours, base = (resolved["study"][run].as_dict() for run in names)
        assert ours["schedule"]["kind"] == base["schedule"]["kind"]
        assert {key for key in base | ours if ours.get(key) != base.get(key)} <= changed


def test_a_control_is_its_run_but_for_what_it_is_named_after(resolved) -> None:
    for by_run in resolved.values():
        for run in [run for run in by_run if run.startswith("e1-") and run.endswith("-gn")]:
            ours, base = by_run[run].as_dict(), by_run[run.removesuffix("-gn")].as_dict()
            assert {key for key in base if ours[key] != base[key]} == {"run", "group", "norm"}
            assert (ours["group"], ours["norm"]) == ("control", "group")


@pytest.mark.parametrize("source", tree.ARMS)
def test_a_grid_that_holds_images_out_keeps_the_workers_and_so_the_batch_of_its_arm(source: str, resolved) -> None:
    for by_run in resolved.values():
        for arm in tree.ARMS[source]:
            of_grid = by_run[point(by_run, source, arm)]
            assert of_grid.workers == by_run[tree.of_arm(source, arm)].workers
            assert of_grid.train_images <= 50_000 - specs.HELD_OUT_IMAGES


def test_a_law_is_executed_once_and_a_training_once_per_seed(root: Path) -> None:
    planned = specs.runs("e1", "study", root=root)
    assert [seed for spec, seed in planned if spec.run == "e1-union-law"] == [11]
    assert [seed for spec, seed in planned if spec.run == "e1-central"] == [11, 12, 13, 14, 15]


def test_payloads_of_the_larger_network_are_measured_once_and_of_the_smaller_one_per_seed(root: Path) -> None:
    planned = specs.runs("e2", "study", root=root)
    for classes in (10, 1000):
        assert [seed for spec, seed in planned if spec.run == f"e2-payloads-resnet18-{classes}"] == [11, 12, 13]
        assert [seed for spec, seed in planned if spec.run == f"e2-payloads-resnet50-{classes}"] == [11]


@pytest.mark.parametrize(
    ("source", "runs"), [("e1", 16 + 4 + 6 * 8), ("e2", 18 + 8 + 3 * 7), ("e3", 30 + 13), ("lb", 82 + 84 + 25 * 4)]
)
def test_run_ids_are_unique_and_fit_file_names(source: str, runs: int, resolved) -> None:
    for profile, by_run in resolved.items():
        ours = {run: spec for run, spec in by_run.items() if spec.source == source}
        fewer_rates = 25 * 2 if (source, profile) == ("lb", "smoke") else 0
        assert len(ours) == runs - fewer_rates, profile
        for run, spec in ours.items():
            assert run.replace("-", "").replace("_", "").isalnum()
            assert (spec.run, spec.profile, run.split("-")[0]) == (run, profile, source)


@pytest.mark.parametrize("source", specs.SOURCES)
def test_a_run_is_found_by_its_id_in_every_group(source: str, root: Path) -> None:
    for group in specs.GROUPS:
        for spec, _ in specs.runs(source, "smoke", group, root):
            assert specs.find(spec.run, "smoke", root) == spec


# What a profile shrinks ---------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(2_000, 50_000))
def test_rounds_per_epoch_stay_near_the_published_ones(images: int) -> None:
    """Workers are whole, so rounds per epoch are off by at most half a worker's share; from 4 430 images by one."""
    workers = specs.scaled_workers(96, images, 50_000)
    rounds = images / (workers * 32)
    assert abs(rounds - PUBLISHED) <= PUBLISHED * 0.5 / workers + 1e-9
    assert abs(rounds - PUBLISHED) <= 1 or images < 4_430


def test_rounds_per_epoch_of_every_profile_are_within_one_of_the_published_ones(resolved) -> None:
    for profile, by_run in resolved.items():
        for run in ("e1-large-batch", "e1-federated", "e1-federated-2labels", "e1-federated-2labels-gn"):
            spec = by_run[run]
            assert abs(spec.train_images / (spec.workers * spec.local_batch) - PUBLISHED) <= 1, (profile, run)


@pytest.mark.parametrize("source", PUBLISHED_WORKERS)
def test_rounds_per_epoch_are_off_by_half_a_worker_unless_there_are_as_few_workers_as_can_be(
    source: str, resolved
) -> None:
    """At least two workers are needed: where two are too many, an epoch has fewer rounds."""
    published = 50_000 / (PUBLISHED_WORKERS[source] * 32)
    for profile, by_run in resolved.items():
        for spec in (by_run[f"{source}-large-batch"], by_run[f"{source}-federated"]):
            share = PUBLISHED_WORKERS[source] * spec.train_images / 50_000
            assert spec.workers == max(2, round(share)), (profile, spec.run)
            if round(share) >= 2:
                rounds = spec.train_images / (spec.workers * spec.local_batch)
                assert abs(rounds - published) <= published * 0.5 / spec.workers + 1e-9, (profile, spec.run)


def test_twice_the_workers_are_twice_the_batch_in_every_profile(resolved) -> None:
    for profile, by_run in resolved.items():
        share = by_run["e1-large-batch-x2"].workers / by_run["e1-large-batch"].workers
        assert share == pytest.approx(2, rel=0.05), profile


def test_there_are_always_two_workers_and_the_published_number_at_the_published_scale() -> None:
    assert specs.scaled_workers(96, 50_000, 50_000) == 96
    assert specs.scaled_workers(384, 50_000, 50_000) == 384
    assert [specs.scaled_workers(96, images, 50_000) for images in (1, 500, 1000)] == [2, 2, 2]


def test_a_profile_changes_sizes_and_nothing_else(resolved) -> None:
    sizes = {"train_images", "test_images", "image_size", "width", "epochs", "evaluate_every", "workers", "precision"}
    sizes |= {"final_test_images", "final_evaluations"}
    for run, paper in resolved["paper"].items():
        of_payloads = {"measured_steps", "local_steps", "memory_steps"} if paper.kind == "payloads" else set()
        of_measurements = {"patch", "depth", "blocks", "repetitions"} if paper.kind == "measure" else set()
        of_measurements |= {"measured_steps", "repetitions"} if paper.kind in ("gradients", "teacher") else set()
        of_lb = {"evaluate_at", "local_steps"} if (paper.source, paper.kind) == ("lb", "train") else set()
        for profile in ("smoke", "study"):
            if run not in resolved[profile] and run.startswith("lb-grid-"):  # smoke tries fewer rates
                continue
            ours = dataclasses.asdict(resolved[profile][run])
            differing = {key for key, value in dataclasses.asdict(paper).items() if ours[key] != value}
            lengths = {"schedule"} if {"epochs", "patience", "warmup_epochs"} & set(paper.schedule) else set()
            lengths |= {"sparsity_warmup"} if profile == "study" else set()  # it has the steps of the source
            allowed = of_payloads or sizes | lengths  # messages are those of the full-size network everywhere
            assert differing <= allowed | of_measurements | of_lb | {"profile"}, (profile, run)
            for key, value in paper.schedule.items():
                if key in ("epochs", "patience"):  # lengths, in epochs, which shrink as the run does
                    least = 3 if (profile, key) == ("study", "patience") else 1
                    expected = max(least, round(value * ours["epochs"] / paper.epochs))
                    assert ours["schedule"][key] == expected or "-grid-" in run, (profile, run)
                elif key == "warmup_epochs":  # the study has the steps of the source instead (test_miniature)
                    share = pytest.approx(value * ours["epochs"] / paper.epochs)
                    assert ours["schedule"][key] == share or profile == "study", (profile, run)
                else:
                    assert ours["schedule"][key] == value, (profile, run)
            assert ours["schedule"].keys() == paper.schedule.keys(), (profile, run)
            assert paper.evaluate_every == ours["evaluate_every"] or "-grid-" in run or profile != "smoke"


def test_devices_and_batches_of_post_3_are_the_same_at_every_profile(resolved) -> None:
    """They are the scenario and the axis of its figures: ten devices with two classes, batches of 128 to 2048."""
    fields = ("workers", "local_batch", "local_steps", "labels_per_client", "norm", "track", "buffers")
    for run in (run for run in resolved["paper"] if run.startswith("e3-")):
        settings = {profile: [getattr(by_run[run], name) for name in fields] for profile, by_run in resolved.items()}
        assert settings["smoke"] == settings["study"] == settings["paper"], run
    of = resolved["paper"]
    assert {s.workers for r, s in of.items() if r.startswith("e3-") and s.method != "central"} == {10}
    assert {of[f"e3-gn-{batch}"].local_batch for batch in (128, 1024, 2048)} == {128, 1024, 2048}
    assert [of[f"e3-fedavg-noniid-{n}"].local_steps for n in (10, 40, 150)] == [10, 40, 150]


def test_rates_of_post_3_are_those_of_its_text(resolved) -> None:
    """Post 3, Large batch training: linear scaling with 6 epochs of warm-up, and 0.01 to 0.1 over 20."""
    of = {run: spec.schedule for run, spec in resolved["paper"].items() if run.startswith("e3-")}
    for batch, rate in ((1024, 0.8), (2048, 1.6)):
        for run in (f"e3-gn-{batch}", f"e3-fixup-{batch}-linear"):
            assert (of[run]["lr"], of[run]["warmup_from"], of[run]["warmup_epochs"]) == (rate, 0.1, 6)
        for run in (f"e3-fixup-{batch}", f"e3-gn-{batch}-slow"):
            assert (of[run]["lr"], of[run]["warmup_from"], of[run]["warmup_epochs"]) == (0.1, 0.01, 20)
    assert {of[run]["lr"] for run in of if "1024" not in run and "2048" not in run} == {0.1}
    assert {spec.momentum for run, spec in resolved["paper"].items() if run.startswith("e3-")} == {0.9}
    assert {spec.weight_decay for run, spec in resolved["paper"].items() if run.startswith("e3-")} == {5e-4}


def test_only_runs_that_may_diverge_say_so(resolved) -> None:
    expected = {run for run, spec in resolved["study"].items() if spec.expects_divergence and "-grid-" not in run}
    of_post_3 = {run for run in expected if run.startswith("e3-")}
    assert of_post_3 == {
        *(f"e3-{norm}-{batch}" for norm in ("gn", "ln", "in") for batch in (1024, 2048)),
        "e3-gn-1024-slow", "e3-gn-2048-slow",
        *(f"e3-fixup-{batch}{end}" for batch in (1024, 2048) for end in ("", "-linear", "-short")),
        "e3-gn-128-unit-scale", "e3-none-128", "e3-gn-wide", "e3-gn-wide-unit-scale",
    }  # fmt: skip
    # Paper lb states no learning rate, so that any of its trained runs may diverge.
    trained = {run for run, spec in resolved["study"].items() if spec.source == "lb" and spec.kind == "train"}
    assert expected == of_post_3 | {run for run in trained if "-grid-" not in run}


def test_central_training_and_laws_keep_their_workers(resolved) -> None:
    for by_run in resolved.values():
        assert by_run["e1-central"].workers == 1
        assert by_run["e1-union-law"].workers == 4


def test_a_law_is_the_same_at_every_profile(resolved) -> None:
    runs = [run for run, spec in resolved["paper"].items() if spec.kind == "law"]
    assert runs
    for run in runs:
        assert len({json.dumps(by_run[run].as_dict() | {"profile": ""}) for by_run in resolved.values()}) == 1, run


def test_the_paper_profile_is_the_published_scale(resolved) -> None:
    spec = resolved["paper"]["e1-large-batch"]
    assert (spec.train_images, spec.test_images, spec.image_size, spec.width) == (50_000, 10_000, 32, 64)
    assert (spec.workers, spec.local_batch, spec.workers * spec.local_batch) == (96, 32, 3072)
    spec, federated = resolved["paper"]["e2-large-batch"], resolved["paper"]["e2-federated"]
    assert (spec.train_images, spec.test_images, spec.image_size, spec.width) == (50_000, 10_000, 32, 64)
    assert (spec.workers, spec.local_batch, spec.epochs) == (32, 32, 100)
    assert (federated.workers, federated.local_batch, federated.epochs) == (32, 32, 150)


# What a profile may say of evaluations, warm-ups and grids -----------------------------------------------------

E3, LB = "pipelines/e3.yaml", "pipelines/lb.yaml"
TEN = "schedule: {kind: plateau, lr: 0.1, factor: 0.1, patience: 10}"


def section(root: Path, source: str, **changes) -> None:
    """Change what the smoke profile says of ``source``; a mapping is merged."""
    path = root / PARAMS
    content = files.read_yaml(path)
    for key, value in changes.items():
        merged = isinstance(value, dict) and isinstance(content[source].get(key), dict)
        content[source][key] = content[source][key] | value if merged else value
    path.write_text(json.dumps(content))


def test_sizes_of_evaluations_come_from_the_source_the_network_and_the_run(root: Path) -> None:
    section(root, "lb", sizes={"evaluate_every": 3, "final_evaluations": 2, "final_test_images": 999})
    section(root, "lb", trained={"vgg11": {"image_size": 32, "epochs": 2, "final_evaluations": 5}})
    section(root, "lb", runs={"lb-bsp-vgg11-noniid": {"workers": 4, "evaluate_every": 1, "final_test_images": 1000}})
    found = [
        specs.find(run, "smoke", root) for run in ("lb-bsp-resnet50-iid", "lb-bsp-vgg11-iid", "lb-bsp-vgg11-noniid")
    ]
    settings = [(s.evaluate_every, s.final_evaluations, s.final_test_images, s.workers) for s in found]
    assert settings == [(3, 2, 999, 10), (3, 5, 999, 10), (1, 5, 1000, 4)]


FEDERATED = "{method: federated, lr_grid: federated"


def test_a_network_of_torchvision_takes_neither_width_nor_norm_from_defaults_and_profile(root: Path) -> None:
    ours = specs.find("e1-federated", "smoke", root)
    tree.edit(root / SPEC, FEDERATED, f"{FEDERATED}, model: 'torchvision:resnet18'")
    spec = specs.find("e1-federated", "smoke", root)
    assert spec == dataclasses.replace(ours, model="torchvision:resnet18", width=None, norm=None)
    usual, used = numerics.used_by(ours.as_dict()), numerics.used_by(spec.as_dict())
    assert used == usual | {"torchvision": 1} != usual
    sizes = specs.sizes_of("lb", "smoke", "torchvision:resnet18", root)
    assert (sizes["width"], sizes["norm"], sizes["image_size"]) == (None, None, 8)


@pytest.mark.parametrize(
    ("run", "sizes", "says"),
    [
        ("torchvision:resnet18', norm: group", "", "key norm: 'group' with model torchvision:resnet18, which has its"),
        ("torchvision:resnet18', width: 8", "", "run e1-federated, key width: 8 with model torchvision:resnet18"),
        ("torchvision:resnet18'", "  runs: {e1-federated: {width: 8}}\n", "key width: 8 with model torchvision:res"),
        ("torchvision:resnet18'", "  trained: {'torchvision:resnet18': {width: 8}}\n", "leave width out"),
        ("torchvision:ResNet-18'", "", "one of resnet18, .*, cnn or torchvision:NAME, in small letters, was expected"),
        ("torchvison:resnet18'", "", "one of resnet18, .*, cnn or torchvision:NAME, in small letters, was expected"),
    ],
)
def test_what_a_network_of_torchvision_does_not_take_is_one_line(run: str, sizes: str, says: str, root: Path) -> None:
    tree.edit(root / SPEC, FEDERATED, f"{FEDERATED}, model: '{run}")
    tree.edit(root / PARAMS, "e1:\n", f"e1:\n{sizes}")
    with pytest.raises(ReproError, match=says) as caught:
        specs.find("e1-federated", "smoke", root)
    assert "\n" not in str(caught.value)


def test_workers_of_single_runs_are_set_only_where_images_do_not_set_them(root: Path) -> None:
    section(root, "e1", runs={"e1-large-batch": {"workers": 4}})
    assert "e1.runs.e1-large-batch.workers: a number; none was expected" in refused(root)


@pytest.mark.parametrize(
    ("source", "changes", "says"),
    [
        ("e1", {"sizes": {"final_test_images": 10}}, "10 final_test_images at profile smoke, of which the test_images"),
        ("e1", {"sizes": {"final_evaluations": 0}}, "e1.sizes.final_evaluations: a number (0); a number from 1"),
        ("e1", {"warmup": "epochs"}, "key e1.warmup: text ('epochs'); one of share, steps was expected"),
        ("e3", {"warmup": "epochs"}, "key e3.warmup: text ('epochs'); one of share, steps was expected"),
        ("e3", {"least_patience": 0}, "key e3.least_patience: a number (0); a number from 1 up was expected"),
        ("e3", {"least_patience": "3"}, "key e3.least_patience: text ('3'); a whole number was expected"),
        ("e3", {"warmup": "steps"}, "at most 60 % of the training was expected; train longer"),
        ("e1", {"grid": {"arms": {"middle": {}}}}, "key e1.grid.arms: unknown key 'middle'; one of central"),
        ("e1", {"grid": {"arms": {"central": {"width": 4}}}},
         "e1.grid.arms.central: unknown key 'width'; one of epochs"),
        ("e1", {"grid": {"arms": {"central": {"lrs": []}}}},
         "e1.grid.arms.central.lrs: a list ([]); one or more different"),
        ("e1", {"grid": {"arms": {"central": {"seeds": [2]}}}}, "e1.grid.arms.central.seeds: [2] shares a seed"),
        ("e1", {"grid": {"arms": {"central": {"epochs": 0}}}},
         "e1.grid.arms.central.epochs: a number (0); a number from 1"),
        ("e1", {"grid": {"arms": {"central": 3}}}, "e1.grid.arms.central: a number (3); a mapping was expected"),
    ],
)  # fmt: skip
def test_a_profile_that_says_it_wrongly_is_one_line(source: str, changes: dict, says: str, root: Path) -> None:
    section(root, source, **changes)
    with pytest.raises(ReproError) as caught:
        [specs.runs(source, "smoke", group, root) for group in specs.GROUPS]
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_warm_up_keeps_the_steps_of_the_source_where_the_profile_says_so(root: Path) -> None:
    """Post 3 at batch 1024: 6 of its epochs have 49 steps each; a profile with 12 500 images has 12 in an epoch."""
    share = specs.find("e3-gn-1024", "smoke", root)
    paper = specs.find("e3-gn-1024", "paper", root)
    section(root, "e3", warmup="steps", sizes={"train_images": 12_500, "epochs": 200})
    steps = specs.find("e3-gn-1024", "smoke", root)
    assert share.schedule["warmup_epochs"] == pytest.approx(6 * share.epochs / paper.epochs)
    assert steps.schedule["warmup_epochs"] * 12 == pytest.approx(6 * 49)
    tree.edit(
        root / E3, "lr: 0.8, factor: 0.1, patience: 10, warmup_epochs: 6",
        "lr: 0.8, warmup: share, factor: 0.1, patience: 10, warmup_epochs: 6",
    )  # fmt: skip
    kept = specs.find("e3-gn-1024", "smoke", root)
    assert kept.schedule["warmup_epochs"] == pytest.approx(6 * 200 / paper.epochs)
    assert kept.schedule.keys() == steps.schedule.keys()
    for name, profile in (("e3-gn-1024", "paper"), ("e3-gn-2048", "paper")):
        assert specs.find(name, profile, root).schedule["warmup_epochs"] == 6


def test_workers_that_share_the_images_share_the_steps_of_a_warm_up(root: Path) -> None:
    """Ten workers of 32: 157 steps an epoch in post 3, 39 with 12 500 images."""
    tree.edit(root / E3, TEN, TEN.replace("}", ", warmup_epochs: 1, warmup_from: 0.01}"))
    section(root, "e3", warmup="steps", sizes={"train_images": 12_500, "epochs": 200})
    assert specs.find("e3-iid-bn", "smoke", root).schedule["warmup_epochs"] == pytest.approx(156 / 39)


def test_a_way_to_warm_up_needs_a_warm_up(root: Path) -> None:
    tree.edit(root / E3, TEN, TEN.replace("}", ", warmup: share}"))
    with pytest.raises(
        ReproError, match=r"key defaults\.schedule: only warmup; warmup_epochs and warmup_from were expected"
    ):
        specs.runs("e3", "smoke", root=root)


def test_patience_never_falls_below_the_least(root: Path) -> None:
    usual = {spec.run: spec.schedule.get("patience") for spec, _ in specs.runs("e3", "smoke", root=root)}
    section(root, "e3", least_patience=3)
    for spec, _ in specs.runs("e3", "smoke", root=root):
        before = usual[spec.run]
        assert spec.schedule.get("patience") == (None if before is None else max(3, before)), spec.run
    assert 1 in usual.values()


def test_an_arm_of_a_grid_can_have_epochs_rates_and_seeds_of_its_own(root: Path) -> None:
    tree.edit(root / SPEC, "grid:\n", "grid:\n  rates: {federated: [0.3, 0.6], central: [0.7]}\n")
    own = {"epochs": 3, "lrs": [0.01, 0.02], "seeds": [105, 106], "final_evaluations": 2}
    section(root, "e1", grid={"arms": {"central": own}}, sizes={"final_test_images": 500, "final_evaluations": 4})
    planned = specs.runs("e1", "smoke", "grid", root)
    usual = files.read_yaml(root / SPEC)["grid"]["lrs"]
    expected = {"central": ([0.01, 0.02], 3, [105, 106], 2), "federated": ([0.3, 0.6], 1, [101], None)}
    for arm, made in specs.grids("e1", "smoke", root).items():
        rates, epochs, seeds, final = expected.get(arm, (usual, 1, [101], None))
        assert [spec.schedule["lr"] for spec in made] == rates
        for spec in made:
            assert (spec.epochs, spec.evaluate_every, spec.final_evaluations) == (epochs, epochs, final)
            assert spec.final_test_images is None, "held-out images have a number of their own"
            assert [seed for other, seed in planned if other.run == spec.run] == seeds


def test_a_grid_of_paper_lb_has_lengths_by_arm(root: Path) -> None:
    text = (root / LB).read_text()
    arms = "{vgg: lb-bsp-vgg11-iid, resnet: lb-bsp-resnet50-iid}"
    own = f"grid: {{lrs: [0.1], rates: {{vgg: [0.01, 0.02]}}, arms: {arms}}}\n"
    (root / LB).write_text(text[: text.index("\ngrid:\n") + 1] + own)
    content = files.read_yaml(root / PARAMS)
    lengths = {"vgg": {"epochs": 5}, "resnet": {"epochs": 2, "seeds": [9]}}
    content["lb"]["grid"] = {"seeds": [7, 8], "held_out_images": 50, "arms": lengths}
    (root / PARAMS).write_text(json.dumps(content))
    planned = [(spec.run, spec.epochs, seed) for spec, seed in specs.runs("lb", "smoke", "grid", root)]
    assert planned == [
        *((f"lb-grid-vgg-lr0_0{k}", 5, seed) for k in (1, 2) for seed in (7, 8)), ("lb-grid-resnet-lr0_1", 2, 9)
    ]  # fmt: skip


# Local batches of different sizes -----------------------------------------------------------------------------


def test_local_batches_by_speed_add_up_to_those_of_the_run_that_they_are_compared_with(resolved) -> None:
    for profile, by_run in resolved.items():
        for run, base in (("resnet50", "lb-bsp-resnet50-iid"), ("vgg11", "lb-bsp-vgg11-iid")):
            ours, equal = by_run[f"lb-shares-{run}"], by_run[base]
            a, b = ours.as_dict(), equal.as_dict()
            assert {key for key in a | b if a.get(key) != b.get(key)} == {"run", "batch_shares"}, profile
            assert equal.local_batches is None
            assert ours.local_batches == [51, 51, 51, 51, 26, 26, 25, 13, 13, 13]
            assert sum(ours.local_batches) == equal.workers * equal.local_batch == 320
            assert ours.batch_shares == list(measurements.SPEEDS), "the speeds of the simulation"


SHARES = "batch_shares: &speeds [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25]"


@pytest.mark.parametrize(
    ("new", "says"),
    [
        ("batch_shares: &speeds []", "[]; a number above 0 for each of 10 workers was expected"),
        ("batch_shares: &speeds [1, 1, 0.5]", "a number above 0 for each of 10 workers was expected"),
        (SHARES.replace("[1,", "[0,"), "a number above 0 for each of 10 workers was expected"),
        (SHARES.replace("[1,", "[.inf,"), "batch_shares[1]: .inf; a finite number was expected"),
        (SHARES.replace("[1,", "[fast,"), "text ('fast'); a number was expected"),
        (SHARES.replace("[1,", "[0.001,"), "is 0.061 of an image, at least one was expected; take less unequal shares"),
        (SHARES + ", method: federated", "large_batch, iid and true were expected; leave the shares out"),
        (SHARES + ", partition: labels, labels_per_client: 1", "large_batch, iid and true were expected"),
        (SHARES + ", clients_wait: false", "clients_wait false; large_batch, iid and true were expected"),
    ],
)
def test_impossible_shares_are_one_line(new: str, says: str, root: Path) -> None:
    tree.edit(root / "pipelines/lb.yaml", SHARES, new)
    with pytest.raises(ReproError) as caught:
        specs.find("lb-shares-resnet50", "smoke", root)
    assert "lb-shares-resnet50" in str(caught.value)
    assert "batch_shares" in str(caught.value)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_epoch_too_short_for_a_last_step_of_all_workers_is_one_line(root: Path) -> None:
    """Batches of 1: 25 images on 10 workers leave 5 for the third step."""
    tree.edit(root / "pipelines/lb.yaml", SHARES, "local_batch: 1, batch_shares: &speeds " + str([1] * 10))
    tree.edit(root / "pipelines/smoke/params.yaml", "50: {image_size: 8, local", "50: {train_images: 25, local")
    with pytest.raises(ReproError, match="5 images for 10 clients; at least one image each was expected in the last"):
        specs.find("lb-shares-resnet50", "smoke", root)


# Runs that wait for their learning rate -----------------------------------------------------------------------


def test_a_run_that_waits_for_its_rate_is_known_but_for_it(root: Path) -> None:
    chosen = {spec.run: spec for spec, _ in specs.runs("lb", "study", root=root)}
    specs.learning_rates_path("study", root).write_text("{}\n")
    _, waiting = specs.runs_and_waiting("lb", "study", "artefact", root)
    assert {run for run, _ in waiting} == {run for run, spec in chosen.items() if spec.lr_grid}
    for run, _ in waiting:
        spec = specs.unchosen(run, "lb", "study", root)
        assert spec == dataclasses.replace(chosen[run], schedule=chosen[run].schedule | {"lr": 1.0})
    with pytest.raises(ReproError, match="'lb-bsp-vgg11' is no run of lb; did you mean lb-bsp-vgg11-iid"):
        specs.unchosen("lb-bsp-vgg11", "lb", "study", root)


# What a fingerprint depends on --------------------------------------------------------------------------------


def test_a_field_added_later_leaves_older_specs_and_fingerprints_as_they_are(resolved) -> None:
    later = dataclasses.make_dataclass("Later", [("clip", float | None, None)], bases=(specs.Spec,), frozen=True)
    for spec in resolved["study"].values():
        grown = later(**vars(spec))
        assert grown.as_dict() == spec.as_dict()
        assert numerics.fingerprint(grown.as_dict(), 1, "data") == numerics.fingerprint(spec.as_dict(), 1, "data")
        used = dataclasses.replace(grown, clip=1.0)
        assert used.as_dict() == spec.as_dict() | {"clip": 1.0}
        assert numerics.fingerprint(used.as_dict(), 1, "data") != numerics.fingerprint(spec.as_dict(), 1, "data")


def test_every_setting_the_seed_and_the_data_change_the_fingerprint(resolved) -> None:
    spec = resolved["study"]["e1-federated-2labels"]
    ours = numerics.fingerprint(spec.as_dict(), 1, "data")
    others = [numerics.fingerprint(spec.as_dict(), 2, "data"), numerics.fingerprint(spec.as_dict(), 1, "other")]
    for name, value in dataclasses.asdict(spec).items():
        changed: object = {"lr": 0.3} if name == "schedule" else f"{value}?"
        picks = {
            "kind": "law",
            "method": "large_batch",
            "codec": "int8",
            "track": ["per_class"],
            "remedy": "lars",
        }  # versions, by value
        changed = picks.get(name, changed)
        others.append(numerics.fingerprint(dataclasses.replace(spec, **{name: changed}).as_dict(), 1, "data"))
    assert len({ours, *others}) == 1 + len(others)


def test_a_version_changes_the_fingerprints_of_the_runs_that_use_its_part_and_no_other(resolved, monkeypatch) -> None:
    def prints() -> dict[str, str]:
        return {run: numerics.fingerprint(spec.as_dict(), 1, "data") for run, spec in resolved["study"].items()}

    changed = {}
    for part in list(numerics.VERSIONS):
        before = prints()
        monkeypatch.setitem(numerics.VERSIONS, part, 99)
        changed[part] = {run for run, value in prints().items() if value != before[run]}
        monkeypatch.undo()

    def runs(which) -> set[str]:
        return {run for run, spec in resolved["study"].items() if which(spec)}

    law, other = {"e1-union-law"}, {"e3-normalisation-law"}
    every = set(resolved["study"]) - other  # whose networks see neither images nor an engine
    train, sending = runs(lambda s: s.kind == "train"), runs(lambda s: s.kind == "train" and s.method != "central")
    assert changed.pop("models") == changed.pop("randomness") == every | other
    assert changed.pop("batches") == changed.pop("engines") == every
    payloads = runs(lambda s: s.kind == "payloads")
    looked = runs(lambda s: s.kind in ("gradients", "teacher"))  # during a training
    assert changed.pop("evaluation") == changed.pop("schedules") == train | looked
    assert changed.pop("partition") == train | payloads | looked
    assert changed.pop("laws") == law
    assert changed.pop("law_normalisation") == other
    traffic = {"e2-law-slowest-device", "lb-law-epoch-traffic", "lb-law-star-and-ring"}
    assert changed.pop("law_traffic") == traffic
    lost = {"e2-law-lost-worker"}
    assert changed.pop("law_lost_worker") == lost
    for kind in ("gradients", "teacher"):
        assert changed.pop(kind) == runs(lambda s, kind=kind: s.kind == kind)
    assert changed.pop("codec_powersgd") == runs(lambda s: s.codec == "powersgd")
    for name in numerics.REMEDIES:
        assert changed.pop(f"remedy_{name}") == runs(lambda s, name=name: s.remedy == name) != set()
    measured = runs(lambda s: s.kind == "measure")
    assert changed.pop("measure") == measured
    normed = runs(lambda s: s.norm in ("group", "layer", "instance")) - measured  # ViT has a norm of its own
    assert changed.pop("group_norm") == law | other | normed | traffic | lost
    assert changed.pop("fixup") == runs(lambda s: s.norm == "fixup")
    assert changed.pop("buffer_policies") == runs(lambda s: s.buffers != "average")
    assert changed.pop("partition_by_labels") == runs(lambda s: s.kind == "train" and s.partition == "labels")
    assert changed.pop("local_steps") == runs(lambda s: s.kind == "train" and s.local_steps is not None)
    for name in specs.TRACKED:
        assert changed.pop(f"tracked_{name}") == runs(lambda s, name=name: name in (s.track or []))
    assert changed.pop("payloads") == changed.pop("zip") == payloads
    # What every run downloads is dense, but for quantised weights, whose upload is.
    split = runs(lambda s: s.law == "label_split")
    assert changed.pop("law_label_split") == split
    assert changed.pop("clients_go_on") == runs(lambda s: not s.clients_wait)
    assert changed.pop("batch_shares") == runs(lambda s: s.batch_shares is not None) == {
        "lb-shares-resnet50", "lb-shares-vgg11"
    }  # fmt: skip
    assert changed.pop("step_up") == runs(lambda s: s.step_up is not None)
    assert changed.pop("codec_dense") == law | split | traffic | lost | payloads | sending
    int8, dgc = runs(lambda s: s.codec == "int8" or s.quantised_weights), runs(lambda s: s.codec.startswith("dgc"))
    assert changed.pop("codec_int8") == payloads | lost | sending & int8
    assert changed.pop("codec_dgc") == payloads | lost | sending & dgc
    assert changed.pop("quantised_weights") == sending & runs(lambda s: s.quantised_weights)
    for part, model in (("alexnet", "alexnet"), ("cnn", "cnn"), ("vgg", "vgg11"), ("vit", "vit")):
        executed = split if part == "vgg" else set()
        assert changed.pop(part) == runs(lambda s, model=model: s.model == model) | executed
    assert changed.pop("torchvision") == runs(lambda s: s.model.startswith("torchvision:"))
    for codec in ("int8-affine", "top-k", "top-k-residual", "threshold", "qsgd", "terngrad", "1-bit"):
        assert changed.pop(f"codec_{codec}") == payloads | sending & runs(lambda s, c=codec: s.codec == c)
    for codec in ("accumulation", "clipping", "correction", "masking"):
        name = f"dgc-without-{codec}"
        assert changed.pop(f"codec_{name}") == sending & runs(lambda s, name=name: s.codec == name)
    assert changed.pop("local_momentum") == lost | runs(lambda s: s.local_momentum != "restart")
    assert changed.pop("stacked_clients") == runs(lambda s: s.stacked is not None) == set()
    assert changed.pop("aggregation_weights") == runs(lambda s: s.weights != "images")
    more = runs(lambda s: (s.final_test_images, s.final_evaluations) != (None, None))
    assert changed.pop("final_evaluations") == more
    assert not changed, "every part has a law above"


def test_specs_know_the_codecs_and_payload_records_depend_on_those_that_are_measured(resolved) -> None:
    codecs, payloads = pytest.importorskip("repro.codecs"), pytest.importorskip("repro.running.payloads")
    assert set(numerics.CODECS) == set(codecs.NAMES)
    assert set(numerics.MEASURED_CODECS) == {codec for codec, _ in payloads.CODECS.values()}
    measured = next(spec for spec in resolved["study"].values() if spec.kind == "payloads")
    used = {part for part in numerics.used_by(measured.as_dict()) if part.startswith("codec_")}
    assert used == {f"codec_{name}" for name in numerics.MEASURED_CODECS}


def test_every_codec_that_a_spec_names_is_built_as_its_run_builds_it(resolved) -> None:
    codecs = pytest.importorskip("repro.codecs")
    for spec in resolved["study"].values():
        codecs.of_run(spec.codec, spec.method, spec.momentum, workers=spec.workers, options=spec.codec_options)


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"local_momentum": "keep"}, {"local_momentum"}),
        ({"local_momentum": "average"}, {"local_momentum"}),
        ({"weights": "equal"}, {"aggregation_weights"}),
        ({"stacked": 5}, {"stacked_clients"}),
        ({"local_momentum": "restart", "weights": "images"}, set()),
        ({"codec": "dgc-without-correction"}, {"codec_dgc", "codec_dgc-without-correction"}),
    ],
)
def test_options_are_counted_only_where_they_are_not_neutral(changes, parts, resolved) -> None:
    spec = resolved["study"]["e1-federated"].as_dict()
    usual = numerics.used_by(spec)
    assert set(numerics.used_by(spec | changes)) - set(usual) == parts


@pytest.mark.parametrize("zipped", ["", "+zip"])
def test_every_codec_has_a_version_that_its_runs_depend_on(zipped: str, resolved) -> None:
    codecs = pytest.importorskip("repro.codecs")
    spec = resolved["study"]["e2-federated-gq"].as_dict()
    for name in codecs.NAMES:
        used = numerics.used_by(spec | {"codec": name + zipped})
        assert used[f"codec_{name}"] == numerics.VERSIONS[f"codec_{name}"] > 0
        assert ("zip" in used) == bool(zipped)


def test_a_part_that_is_counted_later_leaves_records_of_its_first_version_valid(resolved, monkeypatch) -> None:
    """Downloads are dense where uploads are not, which fingerprints count from the second version on."""
    spec = resolved["study"]["e2-federated-gq"].as_dict()
    assert "codec_dense" not in numerics.used_by(spec)
    monkeypatch.setitem(numerics.VERSIONS, "codec_dense", 2)
    assert numerics.used_by(spec)["codec_dense"] == 2
    assert numerics.used_by(spec | {"quantised_weights": True}).keys() & {"codec_dense"} == set()
