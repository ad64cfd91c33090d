"""Named SQL statements from the files in sql/.

A file holds statements, each after a line `-- name --` and a comment that says
why it is as it is. They are read once, at import.
"""

import re
from importlib.resources import files

_NAME = re.compile(r"^-- (\w+) --$", re.MULTILINE)
# What has been loaded: `area.name` by statement, for traces and logs.
NAMES: dict[str, str] = {}


def load(area: str) -> dict[str, str]:
    """The statements of sql/<area>.sql by name."""
    text = (files("voucher_grpc.store") / "sql" / f"{area}.sql").read_text(encoding="utf-8")
    parts = _NAME.split(text)[1:]
    found = {name: body.strip() for name, body in zip(parts[::2], parts[1::2], strict=True)}
    NAMES.update((body, f"{area}.{name}") for name, body in found.items())
    return found
