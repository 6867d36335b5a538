"""One question to the served champion, through the public ``openai`` client."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import openai

from sonoloop.jobs.demo.progress import Steps
from sonoloop.model.prompts import report_prompt
from sonoloop.platform.errors import ServiceError
from sonoloop.platform.records import CaseRecord
from sonoloop.platform.stack.ports import free_port
from sonoloop.platform.workspace import Store

START_TIMEOUT_S = 300


def served_answer(config_file: Path, workspace: Store, case: CaseRecord, steps: Steps) -> str:
    """Start ``sonoloop serve``, ask for the report of a case's first image, stop it again.

    Raises:
        ServiceError: it does not come up, or does not answer.
    """
    picture = base64.b64encode(workspace.read_bytes(case.images[0].image_key)).decode()
    with _served(config_file, steps) as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key=os.environ["SONOLOOP_API_KEY"], timeout=60)
        try:
            answer = client.chat.completions.create(
                model=client.models.list().data[0].id,
                messages=[
                    {
                        "role": "user",
                        "content": [
                            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{picture}"}},
                            {"type": "text", "text": report_prompt(case.organ_hint)},
                        ],
                    }
                ],
                max_tokens=200,
                temperature=0,
            )
        except openai.OpenAIError as err:
            raise ServiceError(f"the served model does not answer ({type(err).__name__})") from err
    return f"{answer.model} says: {answer.choices[0].message.content}"


@contextmanager
def _served(config_file: Path, steps: Steps) -> Iterator[str]:
    port = free_port()
    log = config_file.with_name("serve.log")
    command = [
        sys.executable,
        "-m",
        "sonoloop.jobs.cli",
        "serve",
        "--config",
        str(config_file),
        "--port",
        str(port),
    ]
    with log.open("w") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT)
    try:
        _wait_until_healthy(f"http://127.0.0.1:{port}", process, log, steps)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()


def _wait_until_healthy(url: str, process: subprocess.Popen[bytes], log: Path, steps: Steps) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{url}/healthz", timeout=2, trust_env=False).status_code == httpx.codes.OK:
                return
        except httpx.HTTPError:
            steps.tick("waiting for the model to be served")
        time.sleep(0.5)
    raise ServiceError(f"sonoloop serve did not come up in {START_TIMEOUT_S} s; see {log}")
