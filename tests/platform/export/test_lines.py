"""JSON lines, validated by jsonschema under the schema that is written beside them."""

from __future__ import annotations

import json

import jsonschema
import pytest
from tests.platform.export.made import every_entities, result

from sonoloop.platform.export.lines import case_line, line_schema
from sonoloop.platform.export.results import Result
from sonoloop.platform.lexicon import ORGANS, entities_json

KEYS = (
    "schema_version case_id patient_key organ status reader model_version written_at findings impression "
    "entities images boxes"
)


def _check(made: Result) -> dict[str, object]:
    line = json.loads(case_line(made))
    validator = jsonschema.validators.validator_for(line_schema())
    validator.check_schema(line_schema())
    validator(line_schema()).validate(line)
    return dict(line)


def test_every_organ_s_lines_follow_the_schema() -> None:
    for organ in ORGANS:
        for entities in every_entities(organ):
            _check(result(entities_json=entities_json(entities)))


def test_a_line_without_entities_or_reader_follows_it_too() -> None:
    line = _check(result(reviewed=False, entities_json=None, boxes=(), model_version=None))
    assert (line["status"], line["reader"], line["entities"]) == ("draft", None, None)


def test_the_schema_refuses_a_line_with_another_status() -> None:
    line = {**json.loads(case_line(result())), "status": "final"}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(line, line_schema())


def test_keys_and_boxes_stay_as_readers_know_them() -> None:
    line = json.loads(case_line(result()))
    assert list(line) == KEYS.split()
    assert line["boxes"][0] == {"image_index": 0, "left": 16.0, "top": 24.0, "right": 80.0, "bottom": 48.0}
    assert "\n" not in case_line(result(findings="two\nlines"))
