"""The protos keep their promises: lint, generated code, and no break goes unnoticed."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tools import protos

SERVICE = Path("voucher_grpc/v1/voucher_service.proto")


def changed_image(folder: Path, change: Callable[[str], str]) -> Path:
    """The image of a copy of the protos in which one file was changed."""
    copy = folder / "protos"
    shutil.copytree(protos.PROTOS, copy)
    path = copy / SERVICE
    path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")
    image = folder / "changed.binpb"
    protos.build_image(image, copy)
    return image


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image of the protos as they are."""
    path = tmp_path_factory.mktemp("image") / "protos.binpb"
    protos.build_image(path)
    return path


def test_nothing_is_wrong_with_the_protos_and_the_generated_code() -> None:
    """buf's lint passes, nothing released is broken, and `make protos` would change nothing."""
    assert [] == protos.check()


def test_the_lint_sees_a_missing_comment(tmp_path: Path) -> None:
    """The lint is not merely silent: a field without a comment is reported."""
    uncommented = "message Uncommented {\n  string field = 1;\n}\n"
    image = changed_image(tmp_path, lambda text: text + uncommented)
    result = protos.buf("lint", str(image))
    assert 0 != result.returncode
    assert "Uncommented" in result.stdout


def test_an_unchanged_api_breaks_nobody(image: Path) -> None:
    """Comparing the protos with themselves reports nothing."""
    assert [] == protos.breaking(image, image)


@pytest.mark.parametrize(
    ("pattern", "replacement"),
    [
        pytest.param(r"  bool validate_only = 6;\n", "", id="a removed field"),
        pytest.param(r"bool validate_only = 6;", "string validate_only = 6;", id="another type"),
        pytest.param(r"bool validate_only = 6;", "bool validate_only = 7;", id="another number"),
        pytest.param(r"  rpc ListPasses\(.*\n", "", id="a removed method"),
    ],
)
def test_a_break_is_reported(image: Path, tmp_path: Path, pattern: str, replacement: str) -> None:
    """What would break a caller of the API as it is cannot go unnoticed."""
    text = (protos.PROTOS / SERVICE).read_text(encoding="utf-8")
    assert 1 == len(re.findall(pattern, text))
    changed = changed_image(tmp_path, lambda text: re.sub(pattern, replacement, text))
    assert [] != protos.breaking(changed, image)


def test_an_added_field_breaks_nobody(image: Path, tmp_path: Path) -> None:
    """Growing is allowed."""
    added = "bool validate_only = 6;\n  // Something new.\n  string something_new = 100;"
    changed = changed_image(tmp_path, lambda text: text.replace("bool validate_only = 6;", added))
    assert [] == protos.breaking(changed, image)
