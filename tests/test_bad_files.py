"""Whatever a file holds, it is read as if it were valid, or refused in one line: never a traceback, or many lines."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import test_records
import tree

from repro import files, plain_yaml
from repro.data import sets
from repro.errors import ReproError
from repro.registry import published, specs, study
from repro.results import links, records

ODD: list[Any] = [
    None, True, 0, -1, -4, 1.5, 1e300, 10**17, "", "x", "3", "1e-3", [], [[1]], [None], {}, {"a": 1}, {"lr": None},
]  # fmt: skip


def mutated(value: Any, draw: random.Random) -> Any:
    """``value`` with one place changed: another kind of value, a key less, a key more, or an entry twice."""
    if isinstance(value, dict | list) and value and draw.random() < 0.85:
        keys = list(value) if isinstance(value, dict) else range(len(value))
        key = draw.choice(list(keys))
        made = dict(value) if isinstance(value, dict) else list(value)
        how = draw.random()
        if how < 0.8:
            made[key] = mutated(value[key], draw)
        elif how < 0.9:
            del made[key]
        elif isinstance(made, dict):
            made["another"] = draw.choice(ODD)
        else:
            made.append(made[key])
        return made
    return draw.choice(ODD)


def one_line(read: Callable[[], object]) -> str | None:
    """The line that refuses, None where nothing does."""
    try:
        read()
    except ReproError as error:
        line = str(error)
    else:
        return None
    assert "\n" not in line
    assert len(line) > 20
    return line


def of_source(source: str) -> Callable[[Path], object]:
    return lambda root: [specs.runs(source, "smoke", group, root) for group in specs.GROUPS]


READERS: dict[str, tuple[Callable[[Path], object], int]] = {  # file: how it is read, and how many mutants of it
    "pipelines/e1.yaml": (of_source("e1"), 60),
    "pipelines/e2.yaml": (lambda root: (of_source("e2")(root), links.load_links(root)), 60),
    "pipelines/e3.yaml": (of_source("e3"), 40),
    "pipelines/lb.yaml": (of_source("lb"), 15),
    "pipelines/smoke/params.yaml": (of_source("e2"), 60),
    "params.yaml": (specs.default_profile, 20),
    "data/published.yaml": (published.load_published, 40),
    "data/ledger.yaml": (published.load_ledger, 20),
    "data/study.yaml": (lambda root: study.looks_of_runs("e1", root), 60),
    "data/sources.yaml": (lambda root: sets.declarations(root / "data"), 60),
    "data/learning_rates/smoke.json": (lambda root: specs.runs("e2", "smoke", root=root), 40),
    "data/manifests/cifar10.json": (lambda root: sets.manifest_sha256("cifar10", root / "data"), 40),
}


@pytest.mark.parametrize("name", READERS)
def test_a_mutated_file_is_read_or_refused_in_one_line(name: str, tmp_path: Path) -> None:
    root, draw = tree.plant(tmp_path), random.Random(name)
    path, (read, mutants) = root / name, READERS[name]
    valid = files.read_yaml(path)  # JSON is YAML
    assert one_line(lambda: read(root)) is None
    refused = 0
    for _ in range(mutants):
        path.write_text(json.dumps(mutated(valid, draw)))
        line = one_line(lambda: read(root))
        refused += line is not None
    assert refused > mutants / 4


@pytest.mark.parametrize("name", READERS)
def test_a_folder_a_cut_file_and_endless_levels_are_one_line(name: str, tmp_path: Path) -> None:
    root, (read, _) = tree.plant(tmp_path), READERS[name]
    path = root / name
    text = path.read_text()
    for damaged in (
        "[" * 100_000,
        '{"a": ' * 5_000,
        "- " * 2_000 + "1",
        "\x07",
        "9" * 400,
        text[: len(text) // 2] + "{[\n",
    ):
        path.write_text(damaged)
        assert one_line(lambda: read(root))
    path.write_bytes(b"\xff\xfe")
    assert one_line(lambda: read(root))
    path.unlink()
    assert one_line(lambda: read(root))
    path.mkdir()
    assert one_line(lambda: read(root))


def test_a_mutated_record_is_read_or_refused_in_one_line(tmp_path: Path) -> None:
    draw = random.Random("records")
    payloads = [{"step": 1, "what": "gradient", "codec": "int8", "bytes": 25, "dense_bytes": 100}]
    refused = 0
    for record in (test_records.RECORD, test_records.LAW, replace(test_records.RECORD, kind="payloads", rows=payloads)):
        path = tmp_path / f"{record.run}.s2.json"
        body = {key: value for key, value in record.body().items() if key != "checksum"}
        for _ in range(150):
            changed = mutated(body, draw)
            if not isinstance(changed, dict):
                continue
            path.write_text(files.canonical_json(changed | {"checksum": files.sha256(changed)}))
            line = one_line(lambda path=path: records.result(records.read(path)))
            refused += line is not None
    assert refused > 150


def test_a_mutated_provenance_is_read_or_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "run.s1.json"
    for content in (
        [],
        [1],
        None,
        3,
        "x",
        {"cpu_seconds": "1"},
        {"cpu_seconds": True},
        {"seconds": -1},
        {"seconds": []},
    ):
        path.write_text(json.dumps(content))
        assert one_line(lambda: records.core_seconds(path))
    for text in ('{"cpu_seconds": ' + "9" * 400 + "}", '{"seconds": 1e999}', '{"seconds": NaN}', "[" * 100_000, "{"):
        path.write_text(text)
        assert one_line(lambda: records.core_seconds(path))
    path.write_text("{}")
    assert records.core_seconds(path) is None
    path.write_text('{"seconds": 3}')
    assert records.core_seconds(path) == 3.0


# YAML as it looks ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: 0100", ", line 1, key a: 0100; a plain decimal number"),
        ("a:\n- 1\n- 1:30", ", line 3, key a[2]: 1:30; a plain decimal number"),
        ("a: 1_000", "1_000; a plain decimal number"),
        ("a: 0x1f", "0x1f; a plain decimal number"),
        ("a: 2026-01-01", "2026-01-01; a plain decimal number, or text in quotes"),
        ("a: yes", "yes; true, false, or text in quotes ('yes') was expected"),
        ("a: .inf", ".inf; a finite number was expected"),
        ("a: -.INF", "-.INF; a finite number was expected"),
        ("a: .nan", ".nan; a finite number was expected"),
        ("a: 1e999", "which is infinite; a finite number was expected"),
        ("a: " + "9" * 400, "a number of 400 digits; at most 18"),
        ("margin: 1\nb: 2\nmargin: 3", ", line 3: the key 'margin' stands twice in one mapping, first in line 1"),
        ("a: {b: {c: 1, c: 2}}", ", line 1, key a.b: the key 'c' stands twice"),
        ("a: 1\n---\nb: 1", "a second document"),
        ("a: !!python/name:os.system", "the tag tag:yaml.org,2002:python/name:os.system"),
        ("a: *b", "*b stands for nothing"),
        ("a: &x [*x]", "*x stands for nothing"),
        ("? [a]\n: 1", "a mapping or a list as a key"),
        ("<<: 3", "<< with something else than mappings"),
        ("[" * 42 + "]" * 42, "more than 40 levels"),
        (f"a: &a {'[' * 20}1{']' * 20}\nb: {'[' * 20}*a{']' * 20}", "more than 40 levels"),
        ("a0: &a0 1\n" + "\n".join(f"a{n}: &a{n} [{f'*a{n - 1}, ' * 9}]" for n in range(1, 9)), "unfolds to"),
    ],
)  # fmt: skip
def test_yaml_that_would_not_be_read_as_it_looks_is_refused(text: str, says: str) -> None:
    with pytest.raises(plain_yaml.Flaw) as caught:
        plain_yaml.parse(text)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 1e-3", {"a": 0.001}),
        ("a: [.5, 5., -1.5e3, +12, -0]", {"a": [0.5, 5.0, -1500.0, 12, 0]}),
        ("a: '0100'\nb: \"yes\"\nc: !!str 3", {"a": "0100", "b": "yes", "c": "3"}),
        ("a: [~, null, '', true, False]\nb:", {"a": [None, None, "", True, False], "b": None}),
        ("a: 1.1.1\nb: 72px\nc: 0aba4e\nd: -", None),
        ("a: &d {x: 1, y: 2}\nb: {<<: *d, y: 3}", {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}}),
        ("a: &d {x: 1}\nb: {<<: [*d, {x: 2, z: 4}]}", {"a": {"x": 1}, "b": {"x": 1, "z": 4}}),
        ("", None),
    ],
)
def test_yaml_is_read_as_it_looks(text: str, value: object) -> None:
    if text.endswith("d: -"):
        assert plain_yaml.parse(text.removesuffix("\nd: -")) == {"a": "1.1.1", "b": "72px", "c": "0aba4e"}
        return
    assert plain_yaml.parse(text) == value


def test_an_alias_is_a_copy() -> None:
    made = plain_yaml.parse("a: &d {x: [1]}\nb: *d")
    made["a"]["x"].append(2)
    assert made["b"] == {"x": [1]}


# Settings that a run would ignore -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("e1-central: {", "e1-central: {codec: int8, ", "key codec: 'int8' with method central, which ignores it"),
        ("e1-central: {", "e1-central: {quantised_weights: true, ", "key quantised_weights: True with method central"),
        ("e1-central: {", "e1-central: {sparsity_warmup: 0.1, ", "key sparsity_warmup: 0.1 with method central"),
        ("e1-central: {", "e1-central: {clients_wait: false, ", "key clients_wait: False with method central"),
        ("e1-central: {", "e1-central: {local_epochs: 2, ", "key local_epochs: 2 with method central"),
        ("e1-large-batch: {", "e1-large-batch: {local_epochs: 2, ", "key local_epochs: 2 with method large_batch"),
        ("e1-large-batch: {", "e1-large-batch: {labels_per_client: 2, ", "labels_per_client: 2 with partition iid"),
        ("e1-large-batch: {", "e1-large-batch: {sparsity_warmup: 0.1, ", "sparsity_warmup: codec dense; dgc was"),
        ("e1-large-batch: {", "e1-large-batch: {batch_sizes: [1, 2, 3], ", "batch_sizes: [1, 2, 3] with kind train"),
        ("e1-federated: {", "e1-federated: {patch: 4, ", "key patch: 4 with model resnet18"),
        ("workers: 96", "workers: -4", "key defaults.workers: a number (-4); a number from 1 up was expected"),
        ("e1-central: {", "e1-central: {evaluate_at: [x], ", "e1-central.evaluate_at[1]: text ('x'); a whole number"),
        ("e1-central: {", "e1-central: {measured_steps: [a], ", "measured_steps[1]: text ('a'); a whole number"),
        ("e1-central: {", "e1-central: {track: [[1]], ", "key runs.e1-central.track[1]: a list ([1]); one of gradient"),
        ("e1-central: {", "e1-central: {width: 1000000, ", "width: a number (1000000); a number up to 1024 was"),
        ("e1-central: {", "e1-central: {classes: 3, ", "key classes: 3; 10 or more of cifar10 were expected"),
        ("e1-central: {", "e1-central: {dataset: cifar11, ", "key dataset: 'cifar11'; one of cifar10, "),
        ("epochs: 200", "epochs: '4'", "key defaults.epochs: text ('4'); a whole number was expected"),
        ("epochs: 200", "epochs: null", "key defaults.epochs: empty; a whole number was expected"),
        ("weight_decay: 0.0", "weight_decay: .inf", "key defaults.weight_decay: .inf; a finite number was expected"),
        ("{kind: constant}", "{kind: plateau, patience: -1}", "schedule.patience: a number (-1); a number from 0 up"),
        ("e1-central: {", "e1-central: {step_up: {factor: 2, threshold: .nan}, ", "threshold: .nan; a finite number"),
    ],
)  # fmt: skip
def test_a_setting_that_would_be_ignored_is_refused(old: str, new: str, says: str, tmp_path: Path) -> None:
    root = tree.plant(tmp_path)
    tree.edit(root / "pipelines/e1.yaml", old, new)
    line = one_line(lambda: of_source("e1")(root))
    assert says in str(line)
