"""Pin requirements/server.txt and requirements/dev.txt from pyproject.toml.

Pins that still fit are kept; `--upgrade` takes the newest of everything. The
files hold names, versions and markers for every platform and Python, and no
address of an index: whoever installs says where from.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "requirements"
EXTRAS = {"server.txt": ["server", "otel"], "dev.txt": ["dev"]}
# The oldest Python that pyproject.toml takes.
OLDEST_PYTHON = "3.11"
_PIN = re.compile(r"[a-z0-9][a-z0-9.-]*==[^\s;:/@]+( ; [^:/@]+)?")


class NotPinned(Exception):
    """The files could not be written; the message is one line."""


def unfit_lines(text: str) -> list[str]:
    """Lines that are anything else than a pin with its marker."""
    return [line for line in text.splitlines() if not _PIN.fullmatch(line)]


def _run(*command: str | Path) -> None:
    # Its words end up on the terminal: what they say about an index is not ours to write down.
    done = subprocess.run(command, cwd=ROOT, check=False)  # noqa: S603 - our own arguments
    if done.returncode:
        raise NotPinned(f"{Path(command[0]).name} failed")


def pin(uv: Path, upgrade: bool) -> None:
    """Write the files with the uv given."""
    for name, extras in EXTRAS.items():
        options = [f"--extra={extra}" for extra in extras]
        options += ["--upgrade"] if upgrade else []
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / name
            if (FOLDER / name).exists():
                output.write_text((FOLDER / name).read_text(encoding="utf-8"), encoding="utf-8")
            _run(
                *(uv, "pip", "compile", "pyproject.toml", "--quiet", "--universal"),
                *("--python-version", OLDEST_PYTHON, "--no-header", "--no-annotate"),
                *("--no-emit-index-url", "--no-emit-find-links", "--output-file", output),
                *options,
            )
            text = output.read_text(encoding="utf-8")
        if unfit := unfit_lines(text):
            raise NotPinned(f"{name} would hold something else than pins: {unfit[0]!r}")
        (FOLDER / name).write_text(text, encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--upgrade", action="store_true", help="newest versions of everything")
    upgrade = parser.parse_args().upgrade
    try:
        with tempfile.TemporaryDirectory() as folder:
            venv.create(folder, with_pip=True)
            _run(Path(folder) / "bin" / "python", "-m", "pip", "install", "--quiet", "uv")
            pin(Path(folder) / "bin" / "uv", upgrade)
    except NotPinned as error:
        print(f"requirements: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
