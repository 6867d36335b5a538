"""OpenAI's batch files through the real engine and Ray: one line out for each line in, whatever it is."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import pytest
from openai.types.chat import ChatCompletion
from PIL import Image
from typer.testing import CliRunner

from sonoloop.jobs.batch import BatchSummary, run_batch
from sonoloop.jobs.batching.answering import Asker
from sonoloop.jobs.batching.lines import Line, Place, read_span, survey
from sonoloop.jobs.batching.units import answers_of
from sonoloop.jobs.config import Config
from sonoloop.jobs.init import run_init
from sonoloop.model import nano
from sonoloop.model.engine_config import EngineConfig
from sonoloop.model.open_engine import open_engine
from sonoloop.platform.errors import ConfigError
from sonoloop.platform.workspace import S3Config, Store

LIMITS = EngineConfig(max_report_tokens=24)
SECRET = "MIRANDA-4711"


def picture() -> bytes:
    stream = io.BytesIO()
    Image.effect_noise((96, 64), 40).save(stream, "PNG")
    return stream.getvalue()


def request(custom_id: str, *images: str, **body: Any) -> dict[str, Any]:
    """A line of a batch file, as OpenAI's documentation has it."""
    parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": url}} for url in images]
    parts.append({"type": "text", "text": "Write the report."})
    asked = {"model": "echovlm-nano", "messages": [{"role": "user", "content": parts}], "max_tokens": 8}
    return {
        "custom_id": custom_id,
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {**asked, **body},
    }


def text_of(*lines: dict[str, Any] | str) -> str:
    return "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)


def place_of(folder: Path, text: str) -> Place:
    (folder / "in.jsonl").write_text(text)
    return Place.of(str(folder / "in.jsonl"), S3Config())


@pytest.fixture(scope="module")
def asker(tmp_path_factory: pytest.TempPathFactory) -> Asker:
    workspace = Store(str(tmp_path_factory.mktemp("workspace")))
    return Asker(
        open_engine(nano.folder(), LIMITS), LIMITS, workspace, "batch-1", 1_700_000_000, "echovlm-nano/v1"
    )


def answer(asker: Asker, line: dict[str, Any] | str, number: int = 1) -> dict[str, Any]:
    text = line if isinstance(line, str) else json.dumps(line)
    told: dict[str, Any] = json.loads(asker.answer(Line(number, text.encode())))
    return told


def test_a_file_is_cut_into_units_that_read_back_as_its_lines(tmp_path: Path) -> None:
    text = text_of(request("a"), "", request("b\u2028"), "no JSON", request("c")) + json.dumps(request("d"))
    place = place_of(tmp_path, text)
    found = survey(place, 2)
    assert (found.num_lines, found.digest) == (5, hashlib.sha256(text.encode()).hexdigest())
    lines = [line for span in found.spans for line in read_span(place, span)]
    assert [(line.number, line.custom_id) for line in lines] == [
        (1, "a"), (3, "b\u2028"), (4, None), (5, "c"), (6, "d"),
    ]  # fmt: skip


def test_two_requests_of_one_id_are_refused_by_their_lines_and_not_by_the_id(tmp_path: Path) -> None:
    place = place_of(tmp_path, text_of(request(SECRET), "", request("b"), request(SECRET)))
    with pytest.raises(ConfigError, match="lines 1 and 4 ") as caught:
        survey(place, 2)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("text", ["", "\n  \n"])
def test_a_file_without_a_request_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="is empty"):
        survey(place_of(tmp_path, text), 2)


def test_an_answer_is_what_the_openai_client_reads(asker: Asker) -> None:
    url = f"data:image/png;base64,{base64.b64encode(picture()).decode()}"
    told = answer(asker, request("a", url))
    assert (told["custom_id"], told["error"]) == ("a", None)
    assert told["response"]["status_code"] == 200
    read = ChatCompletion.model_validate(told["response"]["body"])
    assert read.choices[0].message.content
    assert read.usage
    assert read.usage.completion_tokens <= 8


def test_a_key_frame_of_the_workspace_may_be_named_by_key_or_uri(asker: Asker) -> None:
    data = picture()
    digest = hashlib.sha256(data).hexdigest()
    key = f"images/{digest[:2]}/{digest}.png"
    asker.workspace.write_bytes(data, *key.split("/"))
    sent = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    wanted = answer(asker, request("a", sent))["response"]["body"]["choices"]
    for named in (key, asker.workspace.uri_of(key)):
        assert answer(asker, request("a", named))["response"]["body"]["choices"] == wanted


def test_nothing_but_key_frames_is_read_from_the_workspace(asker: Asker) -> None:
    asker.workspace.write_bytes(picture(), "quarantine", "a.png")
    frame = f"images/00/{'0' * 64}.png"
    for named, code in [
        ("quarantine/a.png", "invalid_image"),
        ("images/../quarantine/a.png", "invalid_image"),
        ("s3://elsewhere/a.png", "invalid_image"),
        ("http://127.0.0.1/a.png", "image_url_not_fetched"),
        (frame, "file_not_found"),
    ]:
        assert answer(asker, request("a", named))["response"]["body"]["error"]["code"] == code


@pytest.mark.parametrize(
    ("line", "status", "code"),
    [
        (request("a", model="gpt-4o"), 404, "model_not_found"),
        (request("a", max_tokens=100), 400, "invalid_value"),
        (request("a", tools=[]), 400, "unsupported_parameter"),
        (request("a", stream=True), 400, "invalid_value"),
        (request("a", n=10**9), 400, "invalid_value"),
        (request("a", messages=[{"role": "assistant", "content": SECRET}]), 400, "invalid_value"),
        (request("a", "data:image/png;base64,AAAA"), 400, "invalid_image"),
    ],
)
def test_a_request_that_cannot_be_answered_gets_the_servers_error(
    asker: Asker, line: dict[str, Any], status: int, code: str
) -> None:
    told = answer(asker, line)
    assert (told["custom_id"], told["error"]) == ("a", None)
    assert (told["response"]["status_code"], told["response"]["body"]["error"]["code"]) == (status, code)
    assert SECRET not in json.dumps(told)


@pytest.mark.parametrize(
    "line",
    [
        f"{{{SECRET}",
        f'"{SECRET}"',
        "[" * 100_000,
        {**request("a"), "url": f"/v1/{SECRET}"},
        {"custom_id": "a"},
        {**request("a"), "custom_id": "\ud800"},
    ],
)
def test_a_line_that_is_no_request_gets_an_error_that_names_it(asker: Asker, line: Any) -> None:
    told = answer(asker, line, number=7)
    assert told["response"] is None
    assert told["error"]["code"] == "invalid_request"
    assert told["error"]["message"].startswith("line 7: ")
    assert SECRET not in json.dumps(told)


def test_a_schema_that_cannot_be_used_is_the_fault_of_the_response_format(asker: Asker) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": SECRET}}}
    told = answer(asker, request("a", response_format=wanted))["response"]
    assert (told["status_code"], told["body"]["error"]["param"]) == (400, "response_format")
    assert SECRET not in json.dumps(told)


def test_draws_are_the_same_again_and_n_answers_are_told_apart(asker: Asker) -> None:
    line = request("a", temperature=1.0, n=2)
    first, again = answer(asker, line), answer(asker, line)
    assert first == again
    assert [choice["index"] for choice in first["response"]["body"]["choices"]] == [0, 1]


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory, ray_cluster: str) -> Config:
    """A workspace with the built-in model."""
    folder = tmp_path_factory.mktemp("ready")
    for name in ("workspace", "archive"):
        (folder / name).mkdir()
    annotate = {"cases_per_unit": 2, "engine": LIMITS}
    config = Config(workspace=str(folder / "workspace"), archive=str(folder / "archive"), annotate=annotate)
    run_init(config)
    return config


@pytest.mark.ray
def test_a_batch_leaves_one_line_for_each_in_order_and_the_same_bytes_when_it_is_done_again(
    ready: Config, tmp_path: Path
) -> None:
    ids = ["e", "d", "c", "b", "a"]
    text = text_of(request(ids[0]), "no JSON", "", *[request(name) for name in ids[1:]])
    (tmp_path / "in.jsonl").write_text(text)

    def run(name: str, config: Config = ready) -> tuple[BatchSummary, bytes]:
        summary = run_batch(config, str(tmp_path / "in.jsonl"), str(tmp_path / name))
        return summary, (tmp_path / name).read_bytes()

    summary, wanted = run("out.jsonl")
    assert (summary.lines, summary.answered, summary.failed, summary.resumed) == (6, 5, 1, False)
    told = [json.loads(line) for line in wanted.splitlines()]
    assert [line["custom_id"] for line in told] == ["e", "", "d", "c", "b", "a"]

    workspace = ready.open_workspace()
    _, second, _ = survey(Place.of(str(tmp_path / "in.jsonl"), S3Config()), 2).spans
    workspace.remove(*answers_of(summary.run_id, second))  # as if killed before it was written
    again, found = run("again.jsonl")
    assert (again.run_id, again.resumed, found) == (summary.run_id, True, wanted)

    larger = ready.model_copy(update={"annotate": ready.annotate.model_copy(update={"cases_per_unit": 4})})
    again, found = run("larger.jsonl", larger)
    assert (again.run_id, found) == (summary.run_id, wanted)


@pytest.mark.ray
def test_the_output_may_not_be_the_input(ready: Config, tmp_path: Path) -> None:
    place = place_of(tmp_path, text_of(request("a")))
    with pytest.raises(ConfigError, match="--output names the batch file itself"):
        run_batch(ready, place.path, place.path)


@pytest.mark.parametrize(
    "more", [["--output", "b"], ["--batch", "a"], ["--batch", "a", "--output", "b", "--limit", "1"]]
)
def test_a_batch_takes_no_choice_of_cases(config: Config, tmp_path: Path, more: list[str]) -> None:
    import typer

    from sonoloop.jobs.annotate import annotate

    (tmp_path / "s.toml").write_text(f'workspace = "{config.workspace}"\narchive = "a"')
    app = typer.Typer()
    app.command()(annotate)
    done = CliRunner().invoke(app, ["--config", str(tmp_path / "s.toml"), *more])
    assert isinstance(done.exception, ConfigError)
    assert "--batch and --output go together" in str(done.exception)
