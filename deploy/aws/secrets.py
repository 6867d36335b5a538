"""The secrets of a node, from AWS's Parameter Store by the role of the machine, as lines for a shell.

``eval "$(python secrets.py /sonoloop)"`` exports every parameter below ``/sonoloop/`` under its last name:
``/sonoloop/RAY_AUTH_TOKEN`` becomes ``RAY_AUTH_TOKEN``. Runs on nodes, with the boto3 of sonoloop's wheel.
"""

from __future__ import annotations

import shlex
import sys
from typing import Any

REQUIRED = ("RAY_AUTH_TOKEN", "SONOLOOP_PSEUDONYM_KEY")


def exports(parameters: dict[str, str]) -> str:
    """Lines that export these.

    Raises:
        SystemExit: one that no cluster can do without is missing; the message names it.
    """
    missing = [name for name in REQUIRED if not parameters.get(name)]
    if missing:
        raise SystemExit(f"secrets: {', '.join(missing)} not found; put it there with: aws ssm put-parameter")
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in sorted(parameters.items()))


def parameters_below(client: Any, path: str) -> dict[str, str]:
    """Last name -> value of every parameter directly below a path, decrypted."""
    pages = client.get_paginator("get_parameters_by_path").paginate(Path=path, WithDecryption=True)
    found = [parameter for page in pages for parameter in page["Parameters"]]
    return {parameter["Name"].rpartition("/")[2]: parameter["Value"] for parameter in found}


def _region() -> str:
    """Where this machine stands, from its metadata service."""
    from botocore.utils import InstanceMetadataRegionFetcher

    return str(InstanceMetadataRegionFetcher().retrieve_region())


def main(path: str) -> None:
    """Print the lines."""
    import boto3

    sys.stdout.write(exports(parameters_below(boto3.client("ssm", region_name=_region()), path)))


if __name__ == "__main__":
    main(sys.argv[1])
