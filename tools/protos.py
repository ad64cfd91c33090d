"""Generate code from the protos, and check the protos.

buf cannot fetch googleapis where there is no network and it is not vendored, so
an image made by protoc (with googleapis from its wheel) is linted and compared.
"""

import argparse
import filecmp
import subprocess
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
GENERATED = Path("voucher_grpc/v1")
# What the last release promised, written by `release`; before the first one there is none.
BASELINE = ROOT / "protos" / "released.binpb"
# Programs of this environment are named by path: it need not be activated.
BIN = Path(sys.executable).parent


def _sources(protos: Path = PROTOS) -> list[str]:
    return sorted(str(p.relative_to(protos)) for p in protos.rglob("*.proto"))


def _protoc(protos: Path, *arguments: str) -> None:
    # google.rpc is a namespace package, so only a file of it says where it lies.
    google = Path(str(files("google.rpc").joinpath("status.proto"))).parent.parent.parent
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{protos}", f"-I{google}", *arguments]
    subprocess.run(command, check=True, cwd=ROOT)  # noqa: S603 - our own arguments


def generate(target: Path) -> None:
    """Messages, stubs and their types below `target`."""
    services = [s for s in _sources() if s.endswith("_service.proto")]
    messages = ("--python_out=", "--mypy_out=quiet:")
    stubs = ("--grpc_python_out=", "--mypy_grpc_out=quiet:")
    plugins = [
        f"--plugin={name}={BIN / name}" for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")
    ]
    _protoc(PROTOS, *plugins, *(f"{out}{target}" for out in messages), *_sources())
    _protoc(PROTOS, *plugins, *(f"{out}{target}" for out in stubs), *services)


def build_image(target: Path, protos: Path = PROTOS) -> None:
    """The image of the protos, with what they import."""
    whole = ("--include_imports", "--include_source_info", f"--descriptor_set_out={target}")
    _protoc(protos, *whole, *_sources(protos))


def buf(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run buf of this environment."""
    command = [str(BIN / "buf"), *arguments]
    return subprocess.run(  # noqa: S603 - our own arguments
        command, cwd=ROOT, check=False, capture_output=True, text=True
    )


def breaking(image: Path, baseline: Path) -> list[str]:
    """What breaks callers of `baseline`, a line each."""
    result = buf("breaking", str(image), "--against", str(baseline))
    return (result.stdout + result.stderr).splitlines() if result.returncode else []


def _stale() -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        fresh = Path(folder) / GENERATED
        committed = ROOT / GENERATED
        names = {p.name for p in fresh.iterdir()} | {p.name for p in committed.glob("*_pb2*")}
        _, differ, missing = filecmp.cmpfiles(fresh, committed, sorted(names), shallow=False)
        return [f"{GENERATED / name} is stale: run `make protos`" for name in differ + missing]


def check() -> list[str]:
    """All that is wrong with the protos and the generated code."""
    problems = _stale()
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "protos.binpb"
        build_image(image)
        lint = buf("lint", str(image))
        problems += (lint.stdout + lint.stderr).splitlines() if lint.returncode else []
        if BASELINE.exists():
            problems += breaking(image, BASELINE)
    return problems


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=["generate", "check", "release"])
    task = parser.parse_args().task
    if task == "generate":
        generate(ROOT)
        return 0
    if task == "release":
        build_image(BASELINE)
        return 0
    problems = check()
    print("\n".join(problems) or "protos: lint, breaking changes and generated code are fine")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
