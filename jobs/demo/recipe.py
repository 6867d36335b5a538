"""``sonoloop demo``: the whole loop on this machine, on phantoms, with a scripted reader.

Round 0: the embedded model drafts everything; a part goes to Label Studio and is corrected. A challenger
learns from the corrections and passes the gate. Round 1: it drafts the rest, and its drafts stand beside
those of round 0 on cases that no training ever saw.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from pydantic import BaseModel

from sonoloop.jobs.config import Config, load_config
from sonoloop.jobs.demo.archive import write_archive
from sonoloop.jobs.demo.progress import Steps
from sonoloop.jobs.demo.size import DemoConfig
from sonoloop.jobs.output import JsonOption
from sonoloop.platform.lexicon import Organ
from sonoloop.platform.phantoms.archive import PhantomConfig, PhantomGroup
from sonoloop.platform.phantoms.scanners import ScannerKind
from sonoloop.platform.stack import StackConfig, StackInfo, environment, start
from sonoloop.platform.workspace import S3Config, Store, store_of

NUM_STEPS = 15


def demo(
    folder: Annotated[Path, typer.Option(help="State of the local stack.")] = Path(".sonoloop"),
    output: Annotated[Path, typer.Option(help="Where tables, metrics and pictures go.")] = Path(
        "demo-output"
    ),
    interactive: Annotated[bool, typer.Option(help="Stop at Label Studio and wait for a person.")] = False,
    json: JsonOption = False,
) -> None:
    """Run the whole loop on this machine with phantoms."""
    summary = run_demo(folder, output, DemoConfig(), interactive=interactive)
    if json:
        typer.echo(summary.model_dump_json())


def run_demo(folder: Path, output: Path, size: DemoConfig, *, interactive: bool = False) -> BaseModel:
    """The recipe, from an empty machine to the closing table."""
    output.mkdir(parents=True, exist_ok=True)
    steps = Steps(NUM_STEPS)
    with steps.step("start the local stack: S3, Label Studio, Ray"):
        info = start(StackConfig(folder=folder), steps.say)
        os.environ.pop("RAY_AUTH_TOKEN", None)  # it would win over the stack's own token
        os.environ.update(environment(folder))
    config, truth_store = _configure(info, output, size)
    with steps.step("write the archive to S3: phantom studies, real files, broken files"):
        num_objects = write_archive(store_of(config.archive, config.s3), truth_store, _phantoms(size), steps)
        steps.say(f"{num_objects} objects in {config.archive}")
    # Here, not above: Ray reads its authentication mode from the environment when it is first imported.
    from sonoloop.jobs.demo.loop import Demo, go_round

    return go_round(Demo(config, size, truth_store, info, output, steps, interactive))


def _configure(info: StackInfo, output: Path, size: DemoConfig) -> tuple[Config, Store]:
    """Write ``sonoloop.toml`` for a workspace of this demo's own; a second demo does not meet the first."""
    name = f"demo-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    archive_bucket, bucket = info.buckets[0], info.image_bucket
    text = f"""# Written by sonoloop demo; `. {info.env_file}` sets the keys.
workspace = "s3://{bucket}/{name}/workspace"
archive = "s3://{archive_bucket}/{name}/archive"

[s3]
endpoint_url = "{info.s3_endpoint}"

[labelstudio]
url = "{info.labelstudio_url}"
project = "Ultrasound {name}"

[annotate.engine]
max_report_tokens = 160

[push]
shares = {{ random = 1 }}
control_share = 0
agreement_share = 0

[finetune]
recipe = {{ name = "full", tasks = {{ report = 1 }} }}
epochs = {size.epochs}
learning_rate = {size.learning_rate}
"""
    path = output / "sonoloop.toml"
    path.write_text(text)
    config = load_config(str(path))
    return config, store_of(f"s3://{archive_bucket}/{name}/truth", S3Config(endpoint_url=info.s3_endpoint))


def _phantoms(size: DemoConfig) -> PhantomConfig:
    """The kind that the embedded model knows, on machine A, and one that it does not, on machine B."""
    groups: tuple[tuple[Organ, ScannerKind, int], ...] = (
        ("breast", "A", size.num_known // 2),
        ("thyroid", "A", size.num_known // 2),
        ("liver", "B", size.num_new // 2),
        ("kidney", "B", size.num_new // 2),
    )
    return PhantomConfig(
        seed=size.seed,
        groups=tuple(PhantomGroup(organ=organ, scanner=kind, count=count) for organ, kind, count in groups),
    )
