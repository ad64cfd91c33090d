"""Write the tables in docs/ from what they describe, and check that they are up to date.

A page is written as a whole: an introduction that stands here, and a table made
from the configuration, the metrics, or the comments of ErrorReason.
"""

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path

from prometheus_client.metrics import MetricWrapperBase

from voucher_grpc.access.roles import GRANTS, Scope
from voucher_grpc.access.table import RULES
from voucher_grpc.edge.wire.status import CODES, DOMAIN
from voucher_grpc.errors import Reason
from voucher_grpc.server.config import ENV_PREFIX, markdown_table
from voucher_grpc.telemetry.metrics import Metrics
from voucher_grpc.workers.multiprocess_metrics import SupervisorMetrics

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
ERRORS_PROTO = ROOT / "protos" / "voucher_grpc" / "v1" / "errors.proto"

_VALUE = re.compile(r"((?:^  //.*\n)+)^  ERROR_REASON_(\w+) = \d+;", re.MULTILINE)

# What a caller should do, by reason: a new reason without an entry fails the check.
_TO_DO: dict[Reason, str] = {
    Reason.INVALID_FIELD: "Correct the fields that BadRequest names. Do not retry as it is.",
    Reason.MALFORMED_MESSAGE: "Send a message of the method's type. Do not retry as it is.",
    Reason.INVALID_PAGE_TOKEN: "Start again without a page_token.",
    Reason.USER_NOT_FOUND: "Create the user (UpsertUser), then retry.",
    Reason.VEHICLE_NOT_FOUND: "Register the vehicle, or send user_id too.",
    Reason.VEHICLE_OF_ANOTHER_USER: "Deregister it from the other user first.",
    Reason.LOCATION_NOT_FOUND: "Send the location (UpsertLocations), or only the area.",
    Reason.TARIFF_NOT_FOUND: "Send the tariff (UpsertTariffs), then retry.",
    Reason.PRODUCT_NOT_FOUND: "Check the product_id. Do not retry as it is.",
    Reason.PRODUCT_ALREADY_EXISTS: "Update the product, or choose another product_id.",
    Reason.PRODUCT_RETIRED: "Create another product.",
    Reason.ETAG_MISMATCH: "Read again, apply the change to what was read, retry.",
    Reason.PASS_NOT_FOUND: "Check user_id and pass_id. Do not retry as it is.",
    Reason.OFFER_INVALID: "Ask for offers again and pass offer_id on unchanged.",
    Reason.OFFER_EXPIRED: "Ask for offers again. Refund a payment already made.",
    Reason.OFFER_WITHDRAWN: "Ask for offers again. Refund a payment already made.",
    Reason.OFFER_OF_ANOTHER_USER: "Ask for offers as this user.",
    Reason.OFFER_ALREADY_BOUGHT: "Take the pass that pass_id names; it is bought.",
    Reason.REQUEST_ID_REUSED: "Make a new request_id for a new purchase.",
    Reason.PAYMENT_MISMATCH: "Pay the price offered, in its currency; refund the other amount.",
    Reason.PAYMENT_REFERENCE_USED: "Send the reference of a payment of its own.",
    Reason.SOLD_OUT: "Ask for offers again. Refund a payment already made.",
    Reason.PERSONAL_LIMIT_REACHED: "Ask for offers again. Refund a payment already made.",
    Reason.SESSION_CONFLICT: "Send it as a correction if the new content is right.",
    Reason.TIME_ZONE_UNKNOWN: "Send the time zone, or a known location.",
    Reason.OVERLOADED: "Retry after RetryInfo, with the same request_id.",
    Reason.STORE_UNAVAILABLE: (
        "Retry after RetryInfo, with the same request_id: a purchase whose outcome was unclear "
        "is found by it."
    ),
    Reason.SHUTTING_DOWN: "Retry at once on another connection, with the same request_id.",
    Reason.INTERNAL: "Retry with the same request_id at most a few times; report the request id.",
    Reason.VEHICLE_USER_MISMATCH: "Send the vehicle's own user, or only one of the two.",
    Reason.USER_HAS_ACTIVE_PASSES: (
        "Wait until the passes have ended, or set forfeit once the user has given them up."
    ),
    Reason.EVENT_CURSOR_TOO_OLD: (
        "Take stock by other calls, then start again without a cursor: events were missed."
    ),
    Reason.HOLD_EXPIRED: "Ask for offers again. Refund a payment already made.",
    Reason.PASS_ALREADY_PAID: "Refund this payment; the pass is paid.",
    Reason.PASS_CANCELLED: "Ask for offers again. Refund a payment already made.",
    Reason.PASS_EXPIRED: "Nothing is left to cancel.",
    Reason.WITHDRAWAL_CLOSED: "The pass stays as it is. Do not retry.",
    Reason.CREDENTIALS_MISSING: "Send a token as `authorization: Bearer ...`, or a certificate.",
    Reason.CREDENTIALS_INVALID: "Get a token for this service from its issuer. Do not retry.",
    Reason.CREDENTIALS_EXPIRED: "Get a new token, then retry with the same request_id.",
    Reason.ACCESS_DENIED: "Ask whoever issues the credentials. Do not retry as it is.",
    Reason.RATE_LIMITED: "Retry after RetryInfo, with the same request_id; send less often.",
    Reason.OUTDATED: "Nothing; send it again only with a newer last_updated, or without.",
    Reason.CHARGE_NOT_FOUND: "Send the authorization_reference with its own user and operator.",
    Reason.CHARGE_AT_ANOTHER_PLACE: "Capture it at the location where it was authorized.",
    Reason.CHARGE_CAPTURED: "Call ReverseCapture instead.",
    Reason.CDR_CONFLICT: "Credit the CDR with ReverseCapture, then capture another one.",
    Reason.CDR_NOT_FOUND: "Nothing: what was not captured need not be reversed.",
    Reason.SESSION_CAPTURED: "Credit the session's CDR with ReverseCapture first.",
    Reason.TOKEN_NOT_FOUND: "Register the token, or name the user.",
    Reason.TOKEN_OF_ANOTHER_USER: "Delete it for the other user first.",
    Reason.PASS_IN_USE: "Cancel it once the charge is captured or released.",
    Reason.DEADLINE_EXCEEDED: (
        "The outcome is unknown: retry with the same request_id and a longer deadline."
    ),
}

_ERRORS_INTRODUCTION = f"""# Errors

Every error carries a `google.rpc.ErrorInfo` in its status details: `domain` is `{DOMAIN}`, `reason`
is one of the names below (the names of `ErrorReason` in `errors.proto` without the prefix).
Programs decide by the reason, not by the text, which may change. Beside it stand

- `google.rpc.BadRequest` where fields are at fault: each with its path and the bound it broke;
- `google.rpc.RetryInfo` where trying again may help: the time to wait;
- `x-request-id` in the trailing metadata: the one that was sent, else one made here. The logs
  have it.

Nothing is stored by a refusal: the same `request_id` may succeed later, and the payment reference
is unused.
"""

_ERRORS_EXEMPT = """
## Without ErrorInfo

What never reaches the service's own code is answered by the transport, or by the library that
serves it, and carries a code and a text only:

| code | when |
|---|---|
| UNIMPLEMENTED | The service or the method is not known here. |
| RESOURCE_EXHAUSTED | A message over `VOUCHER_MAX_MESSAGE_BYTES`, or metadata over 8 KiB. |
| INTERNAL | The message is compressed in a way that cannot be undone, or its frame is broken. |
| UNAVAILABLE | There is no connection, it broke, or the server has stopped taking calls. |
| CANCELLED | The caller cancelled, or the server was stopping and has not begun the call. |
| DEADLINE_EXCEEDED | The caller's own clock ended the call before an answer arrived. |
| NOT_FOUND | `grpc.health.v1.Health/Check` for a service that is not known. |
| OK with `error_response` | Reflection answers what it does not find inside its stream. |
"""

_METRICS_INTRODUCTION = """# Metrics

Served for Prometheus at `/metrics` on `VOUCHER_METRICS_LISTEN`. The `grpc_server_*` metrics have
the names and labels of go-grpc-prometheus, so that dashboards and alerts made for it work.
`grpc_server_handled_total` counts refusals too, with their `grpc_code`; `voucher_refusals_total`
has the reasons of [errors.md](errors.md). No label carries what a caller wrote.

With several workers (`VOUCHER_WORKERS`) the supervisor serves the sum of all, also of workers that
have ended; of gauges the greatest lag and version, the least `voucher_database_up`, and the sum of
connections and streams of the workers that serve.

A histogram is scraped as `_bucket` (with the label `le`), `_sum` and `_count`.
"""

_CONFIGURATION_INTRODUCTION = f"""# Configuration

The server reads its configuration once at the start from environment variables with the prefix
`{ENV_PREFIX}`, and refuses to start with one line if a value is out of bounds. Names end in their
unit: `_s` is seconds, `_bytes` bytes. Secrets (the database's password, the offer keys) appear in
no log and no error.
"""


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def reason_comments(proto: str) -> dict[str, str]:
    """The comment of each value of ErrorReason, by its name without the prefix."""
    return {
        name: _cell(re.sub(r"^\s*//", "", comment, flags=re.MULTILINE))
        for comment, name in _VALUE.findall(proto)
        if name != "UNSPECIFIED"
    }


def errors_page() -> str:
    """docs/errors.md: reasons in the order of the proto."""
    comments = reason_comments(ERRORS_PROTO.read_text(encoding="utf-8"))
    known = {reason.value for reason in Reason}
    if set(comments) != known:
        different = ", ".join(sorted(set(comments) ^ known))
        raise ValueError(f"ErrorReason in errors.proto and voucher_grpc.errors differ: {different}")
    without = sorted(known - set(_TO_DO))
    if without:
        raise ValueError(f"tools/docs.py does not say what to do about {', '.join(without)}")
    rows = ["| reason | code | meaning | what to do |", "|---|---|---|---|"]
    rows += [
        f"| `{name}` | {CODES[Reason(name)].name} | {comment} | {_cell(_TO_DO[Reason(name)])} |"
        for name, comment in comments.items()
    ]
    return _ERRORS_INTRODUCTION + "\n" + "\n".join(rows) + "\n" + _ERRORS_EXEMPT


def _metric_row(metric: MetricWrapperBase) -> str:
    # The library has no public way to ask a metric for its labels.
    labels = ", ".join(f"`{label}`" for label in metric._labelnames)
    described = next(iter(metric.describe()))
    suffix = "_total" if described.type == "counter" else ""
    name = f"`{described.name}{suffix}`"
    return f"| {name} | {described.type} | {labels} | {_cell(described.documentation)} |"


def metrics_page() -> str:
    """docs/metrics.md: in the order in which they are made."""
    rows = ["| name | type | labels | meaning |", "|---|---|---|---|"]
    made = (*vars(Metrics()).values(), *vars(SupervisorMetrics()).values())
    rows += [_metric_row(m) for m in made if isinstance(m, MetricWrapperBase)]
    return _METRICS_INTRODUCTION + "\n" + "\n".join(rows) + "\n"


def configuration_page() -> str:
    """docs/configuration.md."""
    return _CONFIGURATION_INTRODUCTION + "\n" + markdown_table()


def security_page() -> str:
    """docs/security.md: what people wrote, with the tables of the code between its marks."""
    text = (DOCS / "security.md").read_text(encoding="utf-8")
    for name, rows in (("roles", _role_rows()), ("rpcs", _rpc_rows())):
        begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->\n"
        before, found, rest = text.partition(begin)
        _, closed, after = rest.partition(end)
        if not found or not closed:
            raise ValueError(f"docs/security.md lacks the marks of {name}")
        text = before + begin + "\n".join(rows) + "\n" + end + after
    return text


def _role_rows() -> list[str]:
    rows = ["| role | scopes | users and vehicles | parties |", "|---|---|---|---|"]
    for role, grant in GRANTS.items():
        scopes = ", ".join(f"`{scope}`" for scope in sorted(grant.scopes))
        rows.append(f"| `{role}` | {scopes} | {grant.users} | {grant.parties} |")
    return rows


def _rpc_rows() -> list[str]:
    rows = ["| RPC | scope | whose things | roles |", "|---|---|---|---|"]
    for path, rule in RULES.items():
        roles = [f"`{role}`" for role, grant in GRANTS.items() if rule.scope in grant.scopes]
        everybody = {
            Scope.AUTHENTICATED: "whoever has good credentials",
            Scope.PUBLIC: "whoever reaches the port",
        }
        who = everybody.get(rule.scope) or ", ".join(roles)
        name = path.removeprefix("/voucher_grpc.v1.").removeprefix("/")
        rows.append(f"| {name} | `{rule.scope}` | {rule.owned} | {who} |")
    return rows


PAGES: dict[str, Callable[[], str]] = {
    "configuration.md": configuration_page,
    "errors.md": errors_page,
    "metrics.md": metrics_page,
    "security.md": security_page,
}


def generate(folder: Path = DOCS) -> None:
    """Write all pages into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, page in PAGES.items():
        (folder / name).write_text(page(), encoding="utf-8")


def stale(folder: Path = DOCS) -> list[str]:
    """Names of the pages in `folder` that are missing or not as they would be written."""
    found = []
    for name, page in PAGES.items():
        path = folder / name
        if not path.exists() or path.read_text(encoding="utf-8") != page():
            found.append(name)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=["generate", "check"])
    try:
        if parser.parse_args().task == "generate":
            generate()
            return 0
        pages = stale()
    except ValueError as error:
        print(f"docs: {error}", file=sys.stderr)
        return 1
    if pages:
        print(f"docs: {', '.join(pages)} out of date: run `make docs`", file=sys.stderr)
    else:
        print("docs: the tables are up to date")
    return 1 if pages else 0


if __name__ == "__main__":
    sys.exit(main())
