"""What is written down is what is there."""

import re
import subprocess
from pathlib import Path

import pytest

from tools import docs, requirements
from voucher_grpc.errors import Reason

ROOT = Path(__file__).resolve().parent.parent.parent


def tracked_files() -> list[Path]:
    """The files git knows; outside of a checkout (an sdist) there is nothing to check."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others"]
    done = subprocess.run(
        [*command, "--exclude-standard"], check=False, capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip("not a git checkout")
    paths = [ROOT / name for name in done.stdout.split("\0") if name]
    return [path for path in paths if path.is_file()]


def test_the_tables_in_docs_are_up_to_date() -> None:
    """`make docs` would change nothing."""
    assert [] == docs.stale()


def test_a_stale_or_missing_page_is_noticed(tmp_path: Path) -> None:
    """The check is not merely silent."""
    docs.generate(tmp_path)
    assert [] == docs.stale(tmp_path)
    (tmp_path / "errors.md").unlink()
    (tmp_path / "metrics.md").write_text("# Metrics\n", encoding="utf-8")
    assert ["errors.md", "metrics.md"] == docs.stale(tmp_path)


def test_every_reason_has_a_meaning_and_something_to_do() -> None:
    """Each row of the table of errors is complete, in the words of the proto."""
    page = docs.errors_page()
    for reason in Reason:
        row = next(line for line in page.splitlines() if line.startswith(f"| `{reason}` "))
        assert all(cell.strip() for cell in row.strip("|").split(" | "))
    assert "The offer's expire_time has passed." in page


def test_requirement_files_hold_pins_and_no_addresses() -> None:
    """Whoever installs says where from."""
    for path in (ROOT / "requirements").glob("*.txt"):
        text = path.read_text(encoding="utf-8")
        assert [] == re.findall(r"https?://\S+", text), path.name
        assert [] == requirements.unfit_lines(text), path.name


@pytest.mark.parametrize(
    "line", ["--index-url https://example.com/simple", "a @ https://example.com/a.whl", "a>=1"]
)
def test_anything_else_than_a_pin_is_noticed(line: str) -> None:
    """The check of the requirement files is not merely silent."""
    assert [line] == requirements.unfit_lines(f"numpy==2.4.6 ; python_version < '3.12'\n{line}\n")


def test_no_file_of_the_project_says_which_index_to_use() -> None:
    """No lock file, option or setting of a tracked file names a package index."""
    setting = re.compile(
        r"^\s*(?:-i|--(?:extra-)?index-url|--find-links|index-url|registry|GOPROXY)\b[ =:]+"
        r"\S*https?://",
        re.MULTILINE,
    )
    found = []
    for path in tracked_files():
        if path == Path(__file__).resolve():
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        if setting.search(text) or path.name in {"uv.lock", "poetry.lock", "Pipfile.lock"}:
            found.append(str(path.relative_to(ROOT)))
    assert [] == found
