"""Guards of the house: rooms, arrows between them, and imports without effects."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "platform": {"platform"},
    "model": {"model", "platform"},
    "jobs": {"jobs", "model", "platform"},
    "serve": {"serve", "model", "platform"},
}
MAX_LINES = 400
FILES = sorted(path for room in MAY_IMPORT for path in (ROOT / room).rglob("*.py"))
NEED_VLLM = {  # an extra with an environment of its own
    ROOT / "model" / "vllm_engine" / f"{name}.py" for name in ("grammar", "model", "registry")
}
MODULES = [
    "sonoloop." + ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in FILES
    if path.name != "__main__.py" and path not in NEED_VLLM
]

WITHOUT_MODEL = [
    "sonoloop.jobs.annotate",
    "sonoloop.jobs.annotating.preparing",
    "sonoloop.jobs.annotating.sink",
    "sonoloop.jobs.batch",
    "sonoloop.jobs.evaluate",
    "sonoloop.jobs.finetuning.preparing",
    "sonoloop.jobs.finetuning.tally",
    "sonoloop.jobs.finetuning.task",
    "sonoloop.jobs.init",
    "sonoloop.model.training.recipes",
    "sonoloop.serve.gateway",
    "sonoloop.serve.rolling",
    "sonoloop.serve.running",
    "sonoloop.serve.wire",
]
"""What runs where no model does: torch and transformers would take it seconds and 300 MB."""

EFFECTS = """
import importlib, sys
EVENTS = {"open", "os.mkdir", "os.remove", "os.rename", "os.putenv", "socket.connect", "subprocess.Popen"}
found = []
def watch(event, arguments):
    if event not in EVENTS:
        return
    frame = sys._getframe(1)
    while frame is not None and "importlib" not in frame.f_code.co_filename:
        if "sonoloop" in frame.f_globals.get("__name__", ""):
            found.append(f"{frame.f_globals['__name__']}: {event} {arguments[0]!r}")
            return
        frame = frame.f_back
sys.addaudithook(watch)
for name in sys.argv[1:]:
    importlib.import_module(name)
print("effects:", *found, sep="\\n")  # deepspeed logs to stdout when it is imported
"""


def imports(path: Path) -> set[str]:
    """The rooms of ours that a file imports, wherever in the file."""
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return {name.split(".")[1] for name in names if name.startswith("sonoloop.")}


def run(*arguments: str, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_standard_librarys_platform_is_not_shadowed() -> None:
    assert not (ROOT / "platform" / "__init__.py").exists()
    code = "import platform; print(platform.__file__, platform.machine())"
    where, machine = run("-c", code, cwd=ROOT).split()
    assert not Path(where).is_relative_to(ROOT / "platform")
    assert machine


def test_the_package_is_four_links_to_the_rooms() -> None:
    package = ROOT / "src" / "sonoloop"
    assert {path.name for path in package.iterdir() if path.is_symlink()} == set(MAY_IMPORT)
    for room in MAY_IMPORT:
        assert (package / room).readlink() == Path("..", "..", room)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_downwards_only(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    assert imports(path) <= MAY_IMPORT[room]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_is_one_idea(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_LINES


def test_importing_any_module_opens_writes_connects_and_starts_nothing(tmp_path: Path) -> None:
    assert run("-c", EFFECTS, *MODULES, cwd=tmp_path).partition("effects:")[2].strip() == ""


def test_what_runs_no_model_starts_without_torch_and_transformers(tmp_path: Path) -> None:
    heavy = "print('heavy:', *{'torch', 'transformers'} & sys.modules.keys())"
    code = f"import sys, {', '.join(WITHOUT_MODEL)}; {heavy}"
    assert run("-c", code, cwd=tmp_path).strip() == "heavy:"


def test_the_guard_of_imports_sees_an_effect(tmp_path: Path) -> None:
    (tmp_path / "sonoloop_bad.py").write_text("open(__file__).close()")
    code = f"import sys; sys.path.insert(0, '.')\n{EFFECTS}"
    assert "sonoloop_bad: open" in run("-c", code, "sonoloop_bad", cwd=tmp_path)
