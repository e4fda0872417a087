"""Every committed notebook runs top to bottom on the committed records of the smoke profile, as its stage runs it."""

from pathlib import Path

import nbformat
import pytest
import tree

from repro.book.notebooks import execute

COMMITTED = sorted((tree.REPOSITORY / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_notebook_runs_top_to_bottom_at_smoke(path: Path, tmp_path: Path) -> None:
    out = tmp_path / path.name
    execute(path, out, {"profile": "smoke"}, tree.REPOSITORY)
    cells = [cell for cell in nbformat.read(out, 4).cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in cells if cell.source.strip())


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_parameters_are_tagged_and_each_says_what_it_is(path: Path) -> None:
    """In JupyterLab the tag shows in the property inspector; papermill and readers look for this cell."""
    (cell,) = (cell for cell in nbformat.read(path, 4).cells if "parameters" in cell.metadata.get("tags", []))
    for line in cell.source.splitlines():
        assert "  # " in line, f"{path.name}: {line}"
