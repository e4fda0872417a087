"""The table of teachers says what its records hold, and verdicts read the same numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import synthetic_lb
from reporting import read_csv

from repro import report
from repro.errors import ReproError
from repro.results import teachers
from repro.results.records import Record
from repro.results.statistics import STATISTICS
from repro.results.teachers import ANOTHER, IDENTITY, LATER, MEAN

SEEDS = (11, 12, 13, 14, 15)


def records() -> list[Record]:
    return [synthetic_lb.teacher(seed) for seed in SEEDS]


def test_the_table_has_a_row_for_every_teacher_and_large_batch_the_largest_first() -> None:
    made, found = report.table("lb.teacher", records()), records()
    names = list(dict.fromkeys(row["teacher"] for row in found[0].rows))
    assert {IDENTITY, MEAN, "scale by layer", "autoencoder"} < set(names)
    assert [(row[0], row[1]) for row in made.rows] == [(name, size) for size in ("1024", "256") for name in names]
    rows = {(row[0], row[1]): row for row in made.rows}
    assert rows[IDENTITY, "1024"][3] == "–"
    gains = [teachers.gain(record, "scale by layer", LATER) for record in found]
    assert rows["scale by layer", "1024"][3].startswith(f"{sum(gains) / len(gains):.2f}".replace("-", "−"))


def test_a_teacher_that_is_worse_than_nothing_has_numbers_below_zero() -> None:
    """R2 below 0 and a gain below 0 are results; only shares are cut at 0 and 100."""
    found = [
        replace(
            record,
            rows=[row | {"r2": -0.5, "length": 1.5} if row["teacher"] == "autoencoder" else row for row in record.rows],
        )
        for record in records()
    ]
    (row,) = (row for row in report.table("lb.teacher", found).rows if row[:2] == ["autoencoder", "1024"])
    assert row[2] == row[4] == "−50.0 [−50.0, −50.0]"
    assert row[3].startswith("−")
    assert row[5] == "150 [150, 150]"


def test_the_csv_holds_every_number_of_every_seed() -> None:
    rows = read_csv(report.table("lb.teacher", records()).csv())
    for record in records():
        own = [row for row in rows if int(row["seed"]) == record.seed]
        assert len(own) == len(record.rows)
        for row in own:
            source = teachers.row(record, row["teacher"], row["held_out"], int(row["large"]))
            assert float(row["r2_percent"]) == pytest.approx(100 * source["r2"])
            assert float(row["length_percent"]) == pytest.approx(100 * source["length"])


def test_notes_say_what_was_held_out_and_how_much_room_there_is() -> None:
    said = " ".join(report.table("lb.teacher", records()).notes)
    for words in ("3.4 at 1024", "12.8 at 256", "n = 5 seeds", "none of which is in the large batch"):
        assert words in said


@pytest.mark.parametrize(("name", "held_out"), [("", LATER), ("_elsewhere", ANOTHER)])
def test_a_gain_is_the_difference_from_the_identity_at_the_largest_batch(name: str, held_out: str) -> None:
    record = synthetic_lb.teacher(11)
    for key, teacher in (("scale_gain", "scale by layer"), ("autoencoder_gain", "autoencoder")):
        found = STATISTICS[f"{key}{name}"].read(record)
        ours, plain = (teachers.row(record, each, held_out, 1024)["r2"] for each in (teacher, IDENTITY))
        assert found == pytest.approx(100 * (ours - plain))


def test_another_kind_of_record_and_a_record_without_the_row_are_refused() -> None:
    record = synthetic_lb.teacher(11)
    with pytest.raises(ReproError, match="kind train has no teachers; a record of kind teacher was expected"):
        teachers.gain(replace(record, kind="train"), "autoencoder", LATER)
    with pytest.raises(ReproError, match="no row of a parrot at batch 1024, later steps; it has batches 256, 1024"):
        teachers.gain(record, "a parrot", LATER)
