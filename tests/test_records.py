"""A record is read whole and unchanged or not at all, and a file is written whole or not at all."""

import errno
import json
import math
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repro import files
from repro.errors import ReproError
from repro.files import canonical_json
from repro.results import records
from repro.results.records import Record

ROW = {
    "epoch": 1.0, "round": 3, "lr": 0.1, "train_loss": 2.125, "train_top1": 0.25, "test_top1": 0.3125,
    "test_top5": 0.75, "test_loss": 1.9375, "bytes_up": 480, "bytes_down": 480,
}  # fmt: skip
RECORD = Record(
    run="e1-federated", source="e1", group="artefact", kind="train", profile="smoke", seed=2,
    spec={"method": "federated", "schedule": {"kind": "constant", "lr": 0.1}, "labels_per_client": None},
    data={"name": "cifar10", "sha256": "5" * 64, "reduced": None, "classes": 10}, fingerprint="7" * 64,
    status="completed", rows=[ROW, ROW | {"epoch": 2.0, "round": 6}], series={"train_loss": [2.5, 2.25, 2.125]},
)  # fmt: skip
LAW = replace(RECORD, run="e1-union-law", kind="law", rows=[], series={}, law={"workers": 4, "tolerance": 1e-12})
DIVERGED = replace(RECORD, status="diverged", reason="round 4 of 8: the training loss is nan — stopped", rows=[ROW])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)
quickly = settings(deadline=None, max_examples=50)


def refused(path: Path) -> str:
    with pytest.raises(ReproError) as caught:
        records.read(path)
    line = str(caught.value)
    assert "\n" not in line
    assert str(path) in line
    return line


# Canonical JSON -----------------------------------------------------------------------------------------------


@quickly
@given(JSON)
def test_canonical_json_says_what_the_value_is(value: object) -> None:
    assert json.loads(canonical_json(value)) == value


@quickly
@given(JSON)
def test_canonical_json_of_what_was_read_is_the_same_text(value: object) -> None:
    assert canonical_json(json.loads(canonical_json(value))) == canonical_json(value)


@quickly
@given(st.dictionaries(st.text(), JSON), st.randoms(use_true_random=False))
def test_canonical_json_does_not_depend_on_the_order_of_keys(value: dict[str, object], random) -> None:
    items = list(value.items())
    random.shuffle(items)
    nested = {"outer": [dict(items)], "inner": dict(items)}
    assert canonical_json(nested) == canonical_json({"inner": value, "outer": [value]})


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [lambda x: x, lambda x: {"a": x}, lambda x: {"a": [1.0, x]}, lambda x: [{"a": [x]}]])
def test_canonical_json_refuses_numbers_that_json_does_not_have(number: float, place) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json(place(number))


def test_lists_of_numbers_stand_on_one_line_and_rows_on_one_each() -> None:
    text = canonical_json({"series": [1.5, 2.5], "rows": [{"b": 1, "a": 2}, {"a": 3}]})
    assert text == '{\n "rows": [\n  {"a": 2, "b": 1},\n  {"a": 3}\n ],\n "series": [1.5, 2.5]\n}\n'


def test_equal_values_have_equal_hashes_and_different_ones_different_hashes() -> None:
    assert files.sha256({"a": 1, "b": 2}) == files.sha256({"b": 2, "a": 1})
    assert files.sha256({"a": 1}) != files.sha256({"a": 1.0})
    assert files.sha256({"a": 0.1 + 0.2}) != files.sha256({"a": 0.3})


# Writing and reading ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("record", [RECORD, LAW, DIVERGED], ids=["train", "law", "diverged"])
def test_what_is_written_is_what_is_read(record: Record, tmp_path: Path) -> None:
    path = records.write(record, tmp_path)
    assert path == tmp_path / f"data/records/smoke/e1/{record.run}.s2.json"
    assert records.read(path) == record
    before = path.read_bytes()
    assert records.write(records.read(path), tmp_path).read_bytes() == before


def test_controls_have_a_folder_of_their_own(tmp_path: Path) -> None:
    path = records.write(replace(RECORD, group="control"), tmp_path)
    assert path.parent == tmp_path / "data/records/smoke/e1_controls"
    assert records.load_all("smoke", "e1", tmp_path) == []
    assert len(records.load_all("smoke", "e1_controls", tmp_path)) == 1


def test_every_proper_prefix_of_a_record_is_refused(tmp_path: Path) -> None:
    path = records.write(RECORD, tmp_path)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert "checkout" in refused(path)


def test_every_changed_digit_is_refused(tmp_path: Path) -> None:
    path = records.write(replace(RECORD, series={"train_loss": [2.4736242294311523]}), tmp_path)
    whole = path.read_text()
    for place, character in enumerate(whole):
        if character.isdigit():
            path.write_text(whole[:place] + str((int(character) + 1) % 10) + whole[place + 1 :])
            assert "expected" in refused(path) or "edited" in refused(path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"seed": 2', '"seed": 3'),
        ('"status": "completed"', '"status": "diverged"'),
        ('"seed": 2', '"seed": 1,\n "seed": 2'),  # JSON's last value wins, a reader's eye stops at the first
        ("0.3125", "NaN"),
        ("0.3125", "1e999"),
        ('"reason": null', '"reason": null,\n "remark": "looks better"'),
        (' "reason": null,\n', ""),
        ("\n", "\n\n"),
    ],
)
def test_an_edited_record_is_refused(old: str, new: str, tmp_path: Path) -> None:
    path = records.write(RECORD, tmp_path)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    assert "edited or damaged" in refused(path)


def test_an_edit_with_a_new_checksum_still_has_to_fit_a_record(tmp_path: Path) -> None:
    content = RECORD.body() | {"remark": "looks better"}
    content.pop("checksum")
    path = tmp_path / "e1-federated.s2.json"
    path.write_text(canonical_json(content | {"checksum": files.sha256(content)}))
    assert "unknown key 'remark'" in refused(path)
    assert "restore it from git" in refused(path)


@pytest.mark.parametrize("name", ["e1-federated.s3.json", "e1-central.s2.json", "copy.s2.json"])
def test_a_renamed_record_is_refused(name: str, tmp_path: Path) -> None:
    path = records.write(RECORD, tmp_path)
    renamed = path.rename(path.with_name(name))
    assert "holds e1-federated seed 2" in refused(renamed)
    with pytest.raises(ReproError, match="renamed or copied"):
        records.load_all("smoke", "e1", tmp_path)


@pytest.mark.parametrize("schema", [0, 2, "1", None])
def test_another_schema_is_refused(schema: object, tmp_path: Path) -> None:
    content = RECORD.body() | {"schema": schema}
    content.pop("checksum")
    path = tmp_path / "e1-federated.s2.json"
    path.write_text(canonical_json(content | {"checksum": files.sha256(content)}))
    assert f"schema {schema}; a record of schema 1 was expected" in refused(path)


@pytest.mark.parametrize("text", ["", "[]", "3", "null", '"text"', "{}", "<<<<<<< HEAD\n"])
def test_what_is_no_record_at_all_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "e1-federated.s2.json"
    path.write_text(text)
    refused(path)
    path.write_bytes(b"\xff\xfe\x00")
    assert "not text in UTF-8" in refused(path)


def test_a_missing_record_names_the_command_that_lists_them(tmp_path: Path) -> None:
    assert "repro list" in refused(tmp_path / "e1-federated.s9.json")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_record_with_a_number_that_is_not_finite_is_never_written(value: float, tmp_path: Path) -> None:
    with pytest.raises(ReproError, match="NaN or infinite"):
        records.write(replace(RECORD, rows=[ROW | {"test_loss": value}]), tmp_path)
    assert not list(tmp_path.rglob("*.json"))


def test_files_that_are_not_records_are_never_read_as_records(tmp_path: Path) -> None:
    path = records.write(RECORD, tmp_path)
    for name in (".e1-federated.s2.json.ab12.part", "e1-federated.s2.json.part", ".e1-federated.s2.json", "notes.json"):
        (path.parent / name).write_text("{")
    assert records.paths("smoke", "e1", tmp_path) == [path]
    assert list(records.every(tmp_path)) == [path]
    assert records.load_all("smoke", "e1", tmp_path) == [RECORD]


def test_no_runs_are_no_records(tmp_path: Path) -> None:
    assert records.load_all("smoke", "e1", tmp_path) == []
    assert list(records.every(tmp_path)) == []


def test_provenance_lies_beside_the_records_under_the_same_name() -> None:
    ours = records.provenance_path(Path("/work/records/x/data/records/smoke/e1_controls/e1-a.s1.json"))
    assert ours == Path("/work/records/x/data/provenance/smoke/e1_controls/e1-a.s1.json")


def test_differences_name_the_fields_that_differ_and_no_other() -> None:
    assert records.differences(RECORD, replace(RECORD)) == []
    other = replace(RECORD, rows=[ROW | {"test_top1": math.nextafter(0.3125, 1)}, RECORD.rows[1]], status="diverged")
    assert sorted(records.differences(RECORD, other)) == ["rows", "status"]


def test_chance_is_one_in_the_number_of_classes() -> None:
    assert RECORD.chance == pytest.approx(0.1)


# Atomic writing -----------------------------------------------------------------------------------------------


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("call", ["fsync", "replace", "fdopen", "chmod"])
@pytest.mark.parametrize("old", [None, b"the old content"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(call, old, tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "folder/file.json"
    path.parent.mkdir()
    if old is not None:
        path.write_bytes(old)
    monkeypatch.setattr(os, call, full_disk)
    with pytest.raises(ReproError, match="No space left on device") as caught:
        files.write_atomic(path, "the new content")
    monkeypatch.undo()
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert [p.read_bytes() for p in path.parent.iterdir()] == ([] if old is None else [old])


def test_a_folder_that_cannot_be_made_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ReproError, match="could not be written"):
        files.write_atomic(tmp_path / "file/inner.json", "x")


def test_the_content_is_on_disk_before_the_name_is(tmp_path: Path, monkeypatch) -> None:
    path, seen = tmp_path / "file", []
    path.write_text("old")
    monkeypatch.setattr(os, "fsync", lambda _: seen.append(("synced", path.read_text())))
    replace_ = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (seen.append(("named", Path(a).read_text())), replace_(a, b)))
    files.write_atomic(path, "new")
    assert seen == [("synced", "old"), ("named", "new")]
    assert path.read_text() == "new"


def test_text_is_written_as_it_is_and_readable_for_others(tmp_path: Path) -> None:
    files.write_atomic(tmp_path / "text", "naïve\r\nline\n")
    files.write_atomic(tmp_path / "bytes", b"\x00\xff")
    assert (tmp_path / "text").read_bytes() == "naïve\r\nline\n".encode()
    assert (tmp_path / "bytes").read_bytes() == b"\x00\xff"
    assert (tmp_path / "text").stat().st_mode & 0o777 == 0o644


def test_json_of_the_package_that_is_damaged_is_said_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "verdicts.json"
    path.write_text('[{"id": "e1.c1"}]')
    assert files.read_json(path) == [{"id": "e1.c1"}]
    for content in (b"", b'[{"id": ', b"<<<<<<< HEAD", b"\xff\xfe"):
        path.write_bytes(content)
        with pytest.raises(ReproError, match=r"verdicts\.json: (truncated or not JSON|not text in UTF-8)"):
            files.read_json(path)
