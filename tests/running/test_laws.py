"""The law of normalisation: what must not matter does not to round-off, and what must matter does."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import toy

from repro.experiments import numerics
from repro.registry import specs
from repro.running import laws, rerun, runner

PER_IMAGE = ("group", "layer", "instance")


def law(norm):
    return laws.normalisation(images=8, image_size=16, width=4, seed=1, norms=(norm,))


@pytest.mark.parametrize("norm", PER_IMAGE)
def test_norms_of_one_image_depend_neither_on_other_images_nor_on_the_mode(norm):
    found = law(norm)
    assert found[f"{norm}_mode_difference"] <= found["tolerance"]
    assert found[f"{norm}_batch_difference"] <= found["tolerance"]
    assert found[f"{norm}_logit_spread"] > 0.01, "the network does not see its input; the law shows nothing"


def test_batchnorm_depends_on_both():
    found = law("batch")
    assert found["batch_mode_difference"] > 1e-3
    assert found["batch_batch_difference"] > 1e-3
    assert found["batch_logit_spread"] > 0.01


def test_the_law_is_of_all_norms_in_float64():
    assert set(laws.NORMS) == {"batch", *PER_IMAGE}
    found = law("group")
    assert {name: found[name] for name in ("dtype", "tolerance", "images", "image_size", "width")} == {
        "dtype": "float64", "tolerance": 1e-12, "images": 8, "image_size": 16, "width": 4,
    }  # fmt: skip


def test_each_law_has_a_version_of_its_own():
    union, normalisation = (
        numerics.used_by(toy.spec("large_batch", kind="law", law=name).as_dict())
        for name in ("union_batch", "normalisation")
    )
    assert "laws" in union
    assert "law_normalisation" not in union
    assert "law_normalisation" in normalisation
    assert "laws" not in normalisation


@pytest.mark.data
def test_a_run_of_the_law_takes_its_sizes_from_its_spec():
    spec = toy.spec("large_batch", kind="law", law="normalisation", image_size=16, local_batch=4)
    record, _ = runner.run(spec, 1, toy.ROOT)
    assert record.law == laws.normalisation(images=4, image_size=16, width=4, seed=1)


def test_without_batchnorm_bsp_does_not_depend_on_the_label_split_and_with_it_it_does():
    found = laws.label_split(workers=4, local_batch=8, lr=0.1, seed=1)
    assert found["vgg11_max_abs_difference"] <= found["tolerance"]
    assert found["vgg11_update_max_abs"] > 1e6 * found["tolerance"]
    assert found["resnet50_max_abs_difference"] > 1e6 * found["tolerance"]


def test_the_law_of_the_label_split_notices_workers_that_are_not_weighted_alike(monkeypatch):
    from repro.training import plain

    class Uneven(plain.WeightedMean):
        def add(self, part, weight):
            super().add([2 * tensor for tensor in part] if not self._added else part, weight)

    monkeypatch.setattr(plain, "WeightedMean", Uneven)
    found = laws.label_split(workers=4, local_batch=8, lr=0.1, seed=1)
    assert found["vgg11_max_abs_difference"] > 1e6 * found["tolerance"]


@pytest.mark.data
@pytest.mark.parametrize("run", ["e1-union-law", "e3-normalisation-law"])
def test_without_vector_instructions_a_law_states_the_same(run):
    program = (
        "import json; from pathlib import Path; from repro.registry import specs; from repro.running import runner\n"
        f"root = Path({str(toy.ROOT)!r})\n"
        f"print(json.dumps(runner.run(specs.find({run!r}, 'study', root), 1, root)[0].law))"
    )
    environment = os.environ | {"ATEN_CPU_CAPABILITY": "default", "PYTHONPATH": str(toy.ROOT)}
    found = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    here, _ = runner.run(specs.find(run, "study", toy.ROOT), 1, toy.ROOT)
    there = replace(here, law=json.loads(found.stdout))
    compared = rerun._law_elsewhere(here, there, toy.ROOT)
    assert compared.verdict == rerun.AGREES, compared.detail
