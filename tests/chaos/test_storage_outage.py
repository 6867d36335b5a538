"""S3 answers 503, and S3 is killed and started again, while a run drafts: it waits, and rejects nothing."""

from __future__ import annotations

import time
from collections.abc import Callable

import pyarrow as pa
import pytest
from tests.chaos.conftest import RayNodes
from tests.chaos.disturbed import Annotate, assert_undisturbed, restart_s3, uploaded
from tests.conftest import S3Stack
from tests.fault_proxy import Fault, Proxy

from sonoloop.platform.workspace import S3Config, Store

pytestmark = pytest.mark.ray
OUTAGE_S = 30.0


def test_a_busy_and_a_restarted_s3_are_waited_for(
    annotate: Callable[..., Annotate],
    prepared: Store,
    ray_nodes: RayNodes,
    own_s3: S3Stack,
    proxy: Proxy,
    undisturbed: pa.Table,
) -> None:
    there = f"s3://{own_s3.bucket()}/workspace"
    uploaded(prepared, there, S3Config(endpoint_url=own_s3.endpoint))
    run = annotate(ray_nodes.env, store=Store(there, S3Config(endpoint_url=proxy.endpoint)))

    run.until_durable(2)
    over = time.monotonic() + OUTAGE_S
    proxy.fails = lambda _key, _times: Fault(503, "ServiceUnavailable") if time.monotonic() < over else None
    time.sleep(OUTAGE_S)
    before = len(run.files())
    run.until_durable(before + 2)
    restart_s3(own_s3.folder)
    assert_undisturbed(run, undisturbed)
