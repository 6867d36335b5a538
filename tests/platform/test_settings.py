"""One TOML file into a frozen tree, with overrides, and messages that name the nearest key."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict, Field

from sonoloop.platform.errors import ConfigError
from sonoloop.platform.settings import parse_settings, read_settings, settings_hash


class Inner(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    batch_size: int = Field(default=4, ge=1)
    label: str = "a"


class Outer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    place: str
    inner: Inner = Inner()
    flag: bool = False


def parse(text: str, **environment: str) -> Outer:
    return parse_settings(Outer, text, environment, source="x.toml")


def test_defaults_file_and_environment_follow_each_other() -> None:
    text = 'place = "here"\n[inner]\nbatch_size = 8\nlabel = "b"'
    settings = parse(text, SONOLOOP__INNER__BATCH_SIZE="16", SONOLOOP__FLAG="true", OTHER="1")
    assert (settings.inner.batch_size, settings.inner.label, settings.flag) == (16, "b", True)


def test_the_environment_alone_can_give_a_section_or_a_required_key() -> None:
    settings = parse("", SONOLOOP__PLACE="s3://bucket/prefix", SONOLOOP__INNER__LABEL="two words")
    assert (settings.place, settings.inner.label) == ("s3://bucket/prefix", "two words")


@pytest.mark.parametrize(
    ("text", "environment", "words"),
    [
        ("place = 'x'\n[inner]\nbatchsize = 2", {}, ["inner.batchsize", "did you mean 'batch_size'"]),
        ("place = 'x'\n[iner]\nbatch_size = 2", {}, ["'iner'", "did you mean 'inner'"]),
        ("place = 'x'", {"SONOLOOP__INNER__BATCH_SIZES": "2"}, ["batch_sizes", "did you mean 'batch_size'"]),
        ("place = 'x'", {"SONOLOOP__INER__LABEL": "2"}, ["'iner'", "did you mean 'inner'"]),
        ("place = 'x'\nzzz = 1", {}, ["unknown key 'zzz'"]),
        ("", {}, ["required key 'place' is missing"]),
        ("place = 'x'\n[inner]\nbatch_size = 0", {}, ["inner.batch_size", "greater than or equal to 1"]),
        ("place = ", {}, ["x.toml is not valid TOML"]),
        ("place = 'x'", {"SONOLOOP__PLACE__DEEPER": "1"}, ["SONOLOOP__PLACE__DEEPER", "not a section"]),
        ("place = 'x'\ninner = 3", {}, ["inner"]),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_message(
    text: str, environment: dict[str, str], words: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, **environment)
    assert [word for word in words if word not in str(caught.value)] == []
    assert "\n" not in str(caught.value) or "TOML" in str(caught.value)


def test_a_refused_value_is_not_quoted() -> None:
    with pytest.raises(ConfigError) as caught:
        parse("place = 'x'\n[inner]\nbatch_size = 'sk-very-secret'")
    assert "secret" not in str(caught.value)


def test_several_faults_are_told_at_once() -> None:
    with pytest.raises(ConfigError, match=r"batchsize.*flagg|flagg.*batchsize"):
        parse("place = 'x'\nflagg = true\n[inner]\nbatchsize = 2")


def test_the_hash_names_the_settings(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text("place = 'x'")
    assert settings_hash(read_settings(Outer, str(path))) == settings_hash(parse("place = 'x'"))
    assert settings_hash(parse("place = 'x'")) != settings_hash(parse("place = 'y'"))


def test_a_file_that_is_not_there_or_no_text_is_a_config_error(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for source in (tmp_path / "nowhere.toml", tmp_path, tmp_path / "binary", tmp_path / "binary" / "x"):
        with pytest.raises(ConfigError, match=source.name):
            read_settings(Outer, str(source))
