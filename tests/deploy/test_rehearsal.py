"""Every job as someone else would run it: the wheel's verbs through `ray job submit`, all state on S3.

The cluster asks for a token; its head does no work, and nodes come when they are wanted. In order: each job
stands on what those before it left. ``SONOLOOP_REHEARSAL_VENV`` names an environment with all it wants;
without it a new one is made, which takes some minutes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from tests.conftest import LabelStudioStack, S3Stack
from tests.deploy.growing_cluster import GrowingCluster

from sonoloop.jobs.config import Config
from sonoloop.jobs.demo.archive import read_truth, write_archive
from sonoloop.jobs.demo.progress import Steps
from sonoloop.jobs.demo.reader import read_tasks
from sonoloop.jobs.labelstudio import open_project
from sonoloop.platform.errors import ConfigError
from sonoloop.platform.identity import pseudonym_key
from sonoloop.platform.phantoms.archive import PhantomConfig, PhantomGroup
from sonoloop.platform.settings import parse_settings
from sonoloop.platform.stack import ports
from sonoloop.platform.tables import read_cases, read_drafts
from sonoloop.platform.workspace import Store, store_of

pytestmark = [pytest.mark.rehearsal, pytest.mark.labelstudio]
ROOT = Path(__file__).parents[2]
EXTRAS = "train,serve,labelstudio,export,report"
SMALL = {"cpu": {"CPU": 4, "preparer": 4}, "gpu": {"CPU": 2, "GPU": 1, "accelerator": 1}}
"""What the simulated nodes of deploy/cluster.yaml have, by its own names."""
NUM_STUDIES = 12
SETTINGS = """
workspace = "s3://{bucket}/workspace"
archive = "s3://{bucket}/archive"
[annotate]
cases_per_unit = 4
num_actors = 1
cpus_per_actor = 1
gpus_per_actor = 1
actor_resources = {{ accelerator = 1 }}
max_preparers = 2
preparer_resources = {{ preparer = 0.5 }}
nodes_to_come = [{{ CPU = 4, preparer = 4 }}, {{ CPU = 2, GPU = 1, accelerator = 1 }}]
[annotate.engine]
max_report_tokens = 160
[labelstudio]
url = "{labelstudio}"
project = "Rehearsal {bucket}"
[push]
control_share = 0
[snapshot]
min_train = 2
[finetune]
epochs = 1
num_workers = 1
test_share = 0.4
[gate]
min_cases = 1
min_gain = -1.0
max_edits_rise = 20
max_unusable_rise = 20
max_ece_rise = 1
max_slowdown = 20
may_be_unmeasured = ["calibration", "speed"]
"""


@dataclass(frozen=True)
class Submitter:
    """Somebody with a laptop, the cluster's address and its token."""

    cluster: GrowingCluster
    bucket: str

    def run(self, *arguments: str, timeout_s: float = 600) -> subprocess.CompletedProcess[str]:
        """``ray job`` with these arguments."""
        return subprocess.run(
            [str(self.cluster.programs / "ray"), "job", *arguments],
            env=self.cluster.client_environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def verb(self, *words: str) -> list[str]:
        """A verb's command line, its settings on S3."""
        return ["sonoloop", *words, "--config", f"s3://{self.bucket}/sonoloop.toml"]

    def job(self, *words: str) -> dict[str, Any]:
        """Submit a verb and wait for it; returns what it says as JSON."""
        begin = time.monotonic()
        done = self.run("submit", "--", *self.verb(*words), "--json")
        said = done.stdout + done.stderr
        print(f"{' '.join(words)}: exit {done.returncode}, {time.monotonic() - begin:.0f} s", flush=True)  # noqa: T201
        assert done.returncode == 0, said[-6000:]
        found = [line for line in done.stdout.splitlines() if line.startswith("{")]
        result: dict[str, Any] = json.loads(found[-1])
        return result


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment that has the wheel of this working tree."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "pip", "wheel", "--no-deps", "-q", "-w", folder, ROOT], check=True)
    (wheel,) = folder.glob("*.whl")
    given = os.environ.get("SONOLOOP_REHEARSAL_VENV")
    place = Path(given) if given else folder / "venv"
    if not given:
        subprocess.run([sys.executable, "-m", "venv", place], check=True)
        subprocess.run([place / "bin" / "pip", "install", "-q", f"{wheel}[{EXTRAS}]"], check=True)
    reinstall = ["install", "-q", "--no-deps", "--force-reinstall", str(wheel)]
    subprocess.run([place / "bin" / "pip", *reinstall], check=True)
    return place / "bin"


@pytest.fixture(scope="module")
def submitter(
    programs: Path,
    stack_s3: S3Stack,
    stack_labelstudio: LabelStudioStack,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Submitter]:
    """A cluster without a single worker, a bucket with an archive and the settings."""
    in_file = yaml.safe_load((ROOT / "deploy" / "cluster.yaml").read_text())["available_node_types"]
    assert set(SMALL) == set(in_file) - {"head"}
    types = {
        name: {"resources": {**has, "object_store_memory": 150 * 2**20}, "node_config": {}, "min_workers": 0,
               "max_workers": 1}
        for name, has in SMALL.items()
    }  # fmt: skip
    folder = tmp_path_factory.mktemp("cluster")
    cluster = GrowingCluster(folder, programs, types, stack_labelstudio.env)
    bucket = stack_s3.bucket()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in stack_labelstudio.env.items():
            patch.setenv(name, value)
        try:
            cluster.start()
            _fill(bucket, stack_labelstudio.url)
            yield Submitter(cluster, bucket)
        finally:
            cluster.stop()


def _settings(bucket: str, labelstudio: str) -> str:
    return SETTINGS.format(bucket=bucket, labelstudio=labelstudio)


def _config(bucket: str, labelstudio: str) -> Config:
    return parse_settings(Config, _settings(bucket, labelstudio), {}, source="the rehearsal's settings")


def _fill(bucket: str, labelstudio: str) -> None:
    config = _config(bucket, labelstudio)
    groups = (
        PhantomGroup(organ="thyroid", scanner="A", count=NUM_STUDIES // 2),
        PhantomGroup(organ="liver", scanner="B", count=NUM_STUDIES // 2),
    )
    phantoms = PhantomConfig(seed=11, groups=groups, workers=1)
    truth = store_of(f"s3://{bucket}/truth", config.s3)
    write_archive(store_of(config.archive, config.s3), truth, phantoms, Steps(1))
    store_of(f"s3://{bucket}", config.s3).write_bytes(
        _settings(bucket, labelstudio).encode(), "sonoloop.toml"
    )


def _workspace(submitter: Submitter) -> Store:
    return store_of(f"s3://{submitter.bucket}/workspace", _config(submitter.bucket, "http://a").s3)


def test_nobody_submits_without_the_token_and_probes_need_none(submitter: Submitter) -> None:
    with httpx.Client(trust_env=False, timeout=20) as http:
        assert http.post(f"{submitter.cluster.url}/api/jobs/", json={"entrypoint": "true"}).status_code in (
            401,
            403,
        )
        assert "success" in http.get(f"{submitter.cluster.url}/api/gcs_healthz").text


def test_the_loop_goes_round_in_jobs(submitter: Submitter, stack_labelstudio: LabelStudioStack) -> None:
    assert submitter.cluster.node_groups() == []
    first = submitter.job("init")["champion"]
    indexed = submitter.job("index")
    assert indexed["cases"] > 0
    drafted = submitter.job("annotate")
    assert drafted["drafted"] > 0
    assert drafted["cases"] == drafted["drafted"] + drafted["rejected"]
    assert sorted(set(submitter.cluster.node_groups())) == [
        "cpu",
        "gpu",
    ]  # both came because they were wanted
    assert submitter.job("status")["cases"] == drafted["cases"]
    assert submitter.job("push")["new_tasks"] == drafted["drafted"]
    _correct(submitter, stack_labelstudio.url)
    assert submitter.job("pull")["new_reviews"] > 0
    submitter.job("finetune")
    submitter.job("evaluate")
    promoted = submitter.job("promote")
    assert promoted["previous"] == first != promoted["champion"]
    assert submitter.job("drift")["compared"] >= 0
    submitter.job("lineage", "champion")
    submitter.job("report")
    submitter.job("export", "--format", "jsonl", "--out", f"s3://{submitter.bucket}/exported")


def _correct(submitter: Submitter, labelstudio: str) -> None:
    """What people would do meanwhile."""
    config = _config(submitter.bucket, labelstudio)
    workspace = config.open_workspace()
    cases = {case.case_id: case for case in read_cases(workspace)}
    truth = read_truth(store_of(f"s3://{submitter.bucket}/truth", config.s3), cases, pseudonym_key())
    drafts = {(d.case_id, d.model_version): d for d in read_drafts(workspace) if d.status == "draft"}
    with open_project(config) as (door, project):
        read_tasks(door, project.id, drafts, truth, Steps(1))


def test_a_batch_that_is_stopped_is_gone_on_with(submitter: Submitter) -> None:
    workspace = _workspace(submitter)
    place = store_of(f"s3://{submitter.bucket}", workspace.s3)
    asked = {
        "model": "echovlm-nano",
        "messages": [{"role": "user", "content": "Write the report."}],
        "max_tokens": 150,
    }
    request = {"method": "POST", "url": "/v1/chat/completions", "body": asked}
    lines = [json.dumps({"custom_id": f"request-{number}", **request}) for number in range(60)]
    place.write_bytes("\n".join(lines).encode(), "in.jsonl")
    words = ["annotate", "--batch", f"s3://{submitter.bucket}/in.jsonl"]
    words += ["--output", f"s3://{submitter.bucket}/out.jsonl"]
    begun = submitter.run("submit", "--no-wait", "--submission-id", "batch", "--", *submitter.verb(*words))
    assert begun.returncode == 0, begun.stderr
    _until(
        lambda: any("/answers/" in info.uri for info in workspace.list_objects("runs")), "a unit was answered"
    )
    stopped = submitter.run("stop", "batch")
    assert "was stopped" in stopped.stdout + stopped.stderr
    assert "STOPPED" in submitter.run("status", "batch").stdout.upper()
    assert not place.exists("out.jsonl")
    _until(lambda: not _drivers(submitter), "the driver was gone")

    done = submitter.job(*words)
    assert (done["resumed"], done["lines"], done["answered"]) == (True, 60, 60)
    told = [json.loads(line) for line in place.read_bytes("out.jsonl").splitlines()]
    assert [line["custom_id"] for line in told] == [f"request-{number}" for number in range(60)]


def _drivers(submitter: Submitter) -> list[str]:
    bin_folder = str(submitter.cluster.programs)
    commands = [path.read_bytes().decode(errors="replace") for path in _command_lines()]
    return [command for command in commands if f"{bin_folder}/sonoloop" in command]


def _command_lines() -> list[Path]:
    return [path for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]


def _until(condition: Any, what: str, seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not in {seconds} s: {what}"
        time.sleep(0.3)


def test_a_job_that_fails_says_why_and_its_exit_code_travels(submitter: Submitter) -> None:
    verb = ["sonoloop", "status", "--config", f"s3://{submitter.bucket}/absent.toml"]
    done = submitter.run("submit", "--submission-id", "failing", "--", *verb)
    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert f"no configuration at s3://{submitter.bucket}/absent.toml" in said
    assert f"exit code {ConfigError.exit_code}" in said
    assert "no configuration at" in submitter.run("logs", "failing").stdout  # afterwards, too


def test_the_service_of_kuberay_answers_as_the_champion(
    submitter: Submitter, stack_labelstudio: LabelStudioStack, tmp_path: Path
) -> None:
    """Its part for Serve, given to Serve as KubeRay would; the simulated nodes share one address and port."""
    manifest = yaml.safe_load((ROOT / "deploy" / "kuberay" / "rayservice.yaml").read_text())
    told = yaml.safe_load(manifest["spec"]["serveConfigV2"])
    port = ports.assign(tmp_path, ("serve",), {})["serve"]
    told.update(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
    for application in told["applications"]:
        application["args"]["config"] = f"s3://{submitter.bucket}/sonoloop.toml"
    (tmp_path / "serve.yaml").write_text(yaml.safe_dump(told))
    command = [submitter.cluster.programs / "serve", "deploy", "-a", submitter.cluster.url]
    subprocess.run(
        [*command, tmp_path / "serve.yaml"], env=submitter.cluster.client_environment, check=True, timeout=120
    )
    with httpx.Client(trust_env=False, base_url=f"http://127.0.0.1:{port}", timeout=60) as http:
        _until(lambda: _is_ready(http), "the door was open", 240)
        key = {"Authorization": f"Bearer {stack_labelstudio.env['SONOLOOP_API_KEY']}"}
        asked = {
            "model": "echovlm-nano",
            "messages": [{"role": "user", "content": "Hello."}],
            "max_tokens": 4,
        }
        assert "x-frame-options" in http.get("/-/healthz").headers  # of the strict proxy
        answer = http.post("/v1/chat/completions", headers=key, json=asked).raise_for_status().json()
    assert answer["model"].startswith("echovlm-nano/")
    assert answer["usage"]["completion_tokens"] > 0


def _is_ready(http: httpx.Client) -> bool:
    try:
        return http.get("/readyz").status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False
