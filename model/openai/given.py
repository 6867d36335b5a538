"""What a request is made of: strict records that refuse what they do not know, without quoting it."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, ValidationError, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, ErrorDetails

from sonoloop.model.openai.errors import ApiError, bad_request, first_fault

_REFUSED = """
    audio best_of cache_control echo file_data filename frequency_penalty function_call functions
    include_obfuscation input_audio logit_bias metadata min_p modalities moderation parallel_tool_calls
    prediction presence_penalty prompt_cache_key prompt_cache_options prompt_cache_retention
    reasoning_effort repetition_penalty safety_identifier service_tier store suffix tool_call_id tool_calls
    tool_choice tools top_k verbosity web_search_options
"""
NAMED_WHEN_REFUSED = frozenset(_REFUSED.split())
"""Fields of OpenAI's protocol (and widespread additions to it) that nobody would write patient data into."""


class Given(BaseModel):
    """A part of a request; null stands for a field that is not given, other unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _as_json_means_it(cls, values: Any) -> Any:
        """Nulls are left out, and 3.0 is the integer 3, as JSON Schema has it."""
        if not isinstance(values, dict):
            return values
        return {name: _whole(value) for name, value in values.items() if value is not None}

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """The schema says what may be null: optional fields, and any field that is not known."""
        written = handler(core_schema)
        fields = handler.resolve_ref_schema(written)
        fields["additionalProperties"] = {"type": "null"}
        for name in set(fields["properties"]) - set(fields.get("required", ())):
            known = fields["properties"][name]
            if {"type": "null"} not in known.get("anyOf", ()):
                about = {
                    word: known.pop(word) for word in ("title", "description", "default") if word in known
                }
                fields["properties"][name] = {"anyOf": [known, {"type": "null"}], **about}
        return written

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Read JSON.

        Raises:
            ApiError: 400, with the first field that is wrong and without its value.
        """
        try:
            return cls.model_validate_json(body)
        except ValidationError as err:
            raise _refusal(*first_fault(err)) from None  # the cause would carry the prompt into a log


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _refusal(place: str | None, first: ErrorDetails) -> ApiError:
    if first["type"] == "extra_forbidden":
        *above, name = (str(part) for part in first["loc"])
        if name in NAMED_WHEN_REFUSED:
            text = f"{place} is not supported here; leave it out"
        else:
            place = ".".join(above) or None
            text = f"{place or 'the request'} has a field that this server does not know; leave it out"
        return bad_request(text, code="unsupported_parameter", param=place)
    return bad_request(f"{place}: {first['msg']}" if place else first["msg"], param=place)
