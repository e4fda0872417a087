"""Editors see the same rules as the readers: the committed schemas are those of today's models."""

import json

import pytest
import tree

from repro.files import read_yaml
from repro.registry import schemas


def test_the_committed_schemas_are_those_of_the_models() -> None:
    for path, text in schemas.schemas().items():
        assert (tree.REPOSITORY / path).read_text() == text, "run `python -m repro.registry.schemas`"


@pytest.mark.parametrize("file", schemas.FILES)
def test_every_file_that_people_edit_names_its_schema_in_its_first_line(file: str) -> None:
    text = (tree.REPOSITORY / file).read_text()
    assert text.startswith(schemas.first_line(file) + "\n")
    named = text.split("$schema=", 1)[1].split("\n", 1)[0]
    schema = json.loads(((tree.REPOSITORY / file).parent / named).read_text())
    content = read_yaml(tree.REPOSITORY / file)
    if "properties" in schema:
        assert content.keys() <= schema["properties"].keys()
        assert schema["additionalProperties"] is False
