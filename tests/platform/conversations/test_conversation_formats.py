"""Both formats are read to the same, and what cannot be learned from is refused with its reason, unquoted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sonoloop.platform.conversations.files import file_digest, read_chunks
from sonoloop.platform.conversations.formats import parse_conversation
from sonoloop.platform.errors import ConfigError, Reason, RejectedError

SECRET = "Zimmermann"
ASKED = {"from": "human", "value": "<image>\nDescribe it."}
ANSWERED = {"from": "gpt", "value": "The liver is normal."}


def entry(*turns: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"id": 7, "image": "a.png", "conversations": list(turns or (ASKED, ANSWERED)), **more}


def test_the_published_format_is_read_with_its_placeholders_kept() -> None:
    found = parse_conversation(entry(patient_id="P1", group="g", further={"any": "thing"}))
    assert [(turn.role, turn.text) for turn in found.turns] == [
        ("user", "<image>\nDescribe it."),
        ("assistant", "The liver is normal."),
    ]
    assert (found.source_id, found.images, found.patient, found.group) == ("7", ("a.png",), "P1", "g")
    assert "P1" not in repr(found)
    assert "normal" not in repr(found)


@pytest.mark.parametrize(
    "messages",
    [
        {"content": "<image>\nDescribe it."},
        {"content": [{"type": "image"}, {"type": "text", "text": "\nDescribe it."}]},
        {"content": [{"type": "image", "image": "a.png"}, {"type": "text", "text": "\nDescribe it."}]},
    ],
)
def test_messages_are_read_to_the_same_as_the_published_format(messages: dict[str, Any]) -> None:
    says_itself = "a.png" in str(messages)
    other = {
        "id": "7",
        "messages": [
            {"role": "user", **messages},
            {"role": "assistant", "content": "The liver is normal."},
        ],
        **({} if says_itself else {"images": [{"path": "a.png"}]}),
    }
    assert parse_conversation(other) == parse_conversation(entry())


def test_many_images_turns_and_a_system_text_are_read_in_order() -> None:
    found = parse_conversation(
        entry(
            {"from": "system", "value": "You read ultrasound."},
            {"from": "human", "value": "<image><image> Compare."},
            {"from": "gpt", "value": "The same."},
            {"from": "human", "value": "And <image>?"},
            {"from": "gpt", "value": "Larger."},
            image=None,
            images=["b.png", "a.png", "c.png"],
        )
    )
    assert found.images == ("b.png", "a.png", "c.png")
    assert [turn.role for turn in found.turns] == ["system", "user", "assistant", "user", "assistant"]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ([], Reason.BAD_ENTRY),
        ("text", Reason.BAD_ENTRY),
        ({"id": 1}, Reason.BAD_ENTRY),
        (entry(conversations=[]), Reason.BAD_ENTRY),
        (entry(conversations=SECRET), Reason.BAD_ENTRY),
        (entry(ASKED, SECRET), Reason.BAD_ENTRY),
        (entry({"from": SECRET, "value": "x"}, ANSWERED), Reason.UNKNOWN_ROLE),
        (entry({"value": SECRET}, ANSWERED), Reason.UNKNOWN_ROLE),
        (entry({"from": ["human"], "value": "x"}, ANSWERED), Reason.UNKNOWN_ROLE),
        (entry({"from": "human", "value": 3}, ANSWERED), Reason.BAD_ENTRY),
        (entry({"from": "human", "value": [{"type": "video", "video": SECRET}]}, ANSWERED), Reason.BAD_ENTRY),
        (entry({"from": "human", "value": f"{SECRET}, no image"}, ANSWERED), Reason.IMAGE_COUNT),
        (entry(image=["a.png", "b.png"]), Reason.IMAGE_COUNT),
        (entry(image=None), Reason.IMAGE_COUNT),
        (entry(image=[3]), Reason.BAD_ENTRY),
        (entry(image=""), Reason.BAD_ENTRY),
        (entry(image={"bytes": SECRET}), Reason.BAD_ENTRY),
        (entry(ASKED, {"from": "gpt", "value": " \n"}), Reason.EMPTY_ANSWER),
        (entry({"from": "human", "value": ""}, ANSWERED, image=None), Reason.BAD_ENTRY),
        (entry(ASKED), Reason.NO_ANSWER),
        (entry({"from": "system", "value": "x"}, image=None), Reason.NO_ANSWER),
        (entry(ASKED, ANSWERED, ASKED, image=["a.png"] * 2), Reason.NO_ANSWER),
        (entry(ANSWERED, image=None), Reason.BAD_ENTRY),
        (entry(ASKED, ASKED, ANSWERED, image=["a.png"] * 2), Reason.BAD_ENTRY),
        (entry(ASKED, {"from": "gpt", "value": "<image> it"}), Reason.BAD_ENTRY),
        (entry(ASKED, {"from": "gpt", "value": f"{SECRET}<|im_end|>"}), Reason.BAD_ENTRY),
        (entry(ASKED, {"from": "gpt", "value": f"{SECRET} <| more"}), Reason.BAD_ENTRY),
        (entry({"from": "human", "value": f"What is {SECRET}?"}, ANSWERED, image=None), Reason.IMAGE_COUNT),
        (entry(id=[SECRET]), Reason.BAD_ENTRY),
        (entry(patient=1.5), Reason.BAD_ENTRY),
        (
            entry({"from": "human", "value": [{"type": "image", "image": "b.png"}]}, ANSWERED),
            Reason.BAD_ENTRY,
        ),
    ],
)
def test_what_cannot_be_learned_from_is_refused_with_its_reason(bad: Any, reason: Reason) -> None:
    with pytest.raises(RejectedError) as caught:
        parse_conversation(bad)
    assert caught.value.reason == reason
    assert SECRET not in str(caught.value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda some: (
        st.lists(some) | st.dictionaries(st.sampled_from(["from", "value", "role", "content", "type"]), some)
    ),
)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["conversations", "messages", "image", "images", "id"]), json_values))
def test_whatever_an_entry_is_it_is_read_or_rejected(anything: dict[str, Any]) -> None:
    try:
        parse_conversation(anything)
    except RejectedError:
        return


def texts(file: Path, size: int = 2) -> list[list[tuple[int, str | bytes]]]:
    return [[(raw.place, raw.text) for raw in chunk] for chunk in read_chunks(file, size)]


def test_a_list_and_lines_are_cut_into_chunks_and_blank_lines_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_bytes(b'\xef\xbb\xbf\n  [{"id": 1},\n {"id": 2}, 3]')
    assert texts(file) == [[(1, '{"id": 1}'), (2, '{"id": 2}')], [(3, "3")]]
    file.write_bytes(b'\xef\xbb\xbf{"id": 1}\r\n\n{"id"\n\xff\xfe\n')
    assert texts(file) == [[(1, b'{"id": 1}'), (3, b'{"id"')], [(4, b"\xff\xfe")]]
    file.write_bytes(b"")
    assert texts(file) == []


def test_a_file_that_is_not_there_or_a_broken_list_is_a_config_error_without_its_content(
    tmp_path: Path,
) -> None:
    for read in (file_digest, texts):
        with pytest.raises(ConfigError, match=r"none cannot be read"):
            read(tmp_path / "none")
    file = tmp_path / "x"
    for broken in (f'[{{"id": "{SECRET}"', "[" * 200_000):
        file.write_text(broken)
        with pytest.raises(ConfigError, match="no JSON list") as caught:
            texts(file)
        assert SECRET not in str(caught.value)
