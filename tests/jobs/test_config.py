"""The configuration file as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pydantic import BaseModel, SecretStr, ValidationError

from sonoloop.jobs.config import Config, load_config
from sonoloop.platform.errors import ConfigError, StorageError

if TYPE_CHECKING:
    from conftest import S3Stack

EXAMPLE = Path(__file__).parents[2] / "examples" / "sonoloop.toml"


def models(kind: type[BaseModel]) -> list[type[BaseModel]]:
    """A settings model and all models below it."""
    found = [kind]
    for field in kind.model_fields.values():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found += models(field.annotation)
    return found


def test_the_example_is_valid() -> None:
    config = load_config(str(EXAMPLE))
    assert config.workspace.startswith("s3://")


def test_two_lines_are_a_whole_configuration(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('workspace = "w"\narchive = "a"')
    assert load_config(str(path)) == Config(workspace="w", archive="a")


@pytest.mark.parametrize("kind", models(Config), ids=lambda kind: kind.__name__)
def test_every_section_is_frozen_and_refuses_unknown_keys(kind: type[BaseModel]) -> None:
    assert kind.model_config.get("frozen") is True
    assert kind.model_config.get("extra") == "forbid"


def test_no_secret_has_a_place_in_the_configuration() -> None:
    for kind in models(Config):
        for name, field in kind.model_fields.items():
            assert field.annotation is not SecretStr, f"{kind.__name__}.{name}"
            assert not any(word in name for word in ("secret", "password", "api_key")), name


@pytest.mark.parametrize(
    ("section", "values"),
    [
        ("annotate", {"cases_per_unit": 0}),
        ("annotate", {"max_rejected_share": 1.5}),
        ("finetune", {"zero_stage": 4}),
        ("finetune", {"test_share": 0}),
        ("gate", {"min_cases": 0}),
        ("ray", {"num_cpus": 2}),
        ("index", {"key_frames": 0}),
    ],
)
def test_impossible_values_are_refused_before_anything_starts(
    section: str, values: dict[str, object]
) -> None:
    with pytest.raises(ValidationError):
        Config.model_validate({"workspace": "w", "archive": "a", section: values})


@pytest.mark.parametrize("workspace", ["s3://b/a", "s3://b/a/", "s3://b/a/workspace"])
def test_a_workspace_in_the_archive_is_refused(workspace: str) -> None:
    with pytest.raises(ValidationError, match="would be indexed"):
        Config(workspace=workspace, archive="s3://b/a")
    assert Config(workspace="s3://b/archive-2", archive="s3://b/archive").archive == "s3://b/archive"


def test_stores_are_proven_reachable_when_they_are_opened(tmp_path: Path) -> None:
    config = Config(workspace=str(tmp_path), archive=str(tmp_path / "none"))
    assert config.open_workspace().root == str(tmp_path)
    with pytest.raises(StorageError, match="none does not exist"):
        config.open_archive()


def test_a_configuration_on_s3_is_read_from_there(stack_s3: S3Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in stack_s3.env.items():
        monkeypatch.setenv(name, value)
    bucket = stack_s3.bucket()
    stack_s3.client.put_object(Bucket=bucket, Key="conf/c.toml", Body=b'workspace = "w"\narchive = "a"')
    assert load_config(f"s3://{bucket}/conf/c.toml").archive == "a"
    with pytest.raises(ConfigError, match="no configuration at s3://"):
        load_config(f"s3://{bucket}/conf/other.toml")
