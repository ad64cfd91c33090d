"""Prometheus metrics: the go-grpc-prometheus names and the business's own.

Names and labels are an interface (docs/metrics.md). Labels never carry what a
caller wrote.
"""

from collections.abc import Callable, Mapping

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
)

# Nobody reads `_created`, and it doubles the series of a counter.
disable_created_metrics()  # type: ignore[no-untyped-call]

_RPC = ("grpc_type", "grpc_service", "grpc_method")
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


def code_label(code_name: str) -> str:
    """The `grpc_code` of a status code, as go-grpc-prometheus writes it.

    That is `String` of Go's package codes: `InvalidArgument`, and `Canceled` with one l. Existing
    dashboards and alerts look for these.
    """
    if code_name == "OK":
        return code_name
    label = "".join(word.capitalize() for word in code_name.split("_"))
    return label.replace("Cancelled", "Canceled")


class Metrics:
    """All metrics of one server, in a registry of their own.

    A gauge says how those of several workers become one (`multiprocess_mode`).
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._followed: list[tuple[Gauge, Callable[[], float]]] = []
        r = self.registry
        self.started = Counter("grpc_server_started", "Calls started.", _RPC, registry=r)
        self.handled = Counter(
            "grpc_server_handled", "Calls ended, by code.", (*_RPC, "grpc_code"), registry=r
        )
        self.received = Counter("grpc_server_msg_received", "Messages taken.", _RPC, registry=r)
        self.sent = Counter("grpc_server_msg_sent", "Messages sent.", _RPC, registry=r)
        self.handling_seconds = Histogram(
            "grpc_server_handling_seconds",
            "Time from a call's start to its end.",
            _RPC,
            buckets=_SECONDS,
            registry=r,
        )
        self.refusals = Counter(
            "voucher_refusals", "Calls refused, by reason.", ("grpc_method", "reason"), registry=r
        )
        self.offers = Counter(
            "voucher_offers",
            "Offers made, by whether they were recommended.",
            ("recommended",),
            registry=r,
        )
        self.empty_answers = Counter(
            "voucher_offers_empty", "Answers without an offer, by reason.", ("reason",), registry=r
        )
        self.purchases = Counter(
            "voucher_purchases",
            "Purchases by result: OK, or the reason of the refusal.",
            ("result",),
            registry=r,
        )
        self.passes_closed = Counter(
            "voucher_passes_closed",
            "Holds (LAPSED) and passes (EXPIRED) that this server has closed as over.",
            ("closed_as",),
            registry=r,
        )
        self.closing_lag = Gauge(
            "voucher_closing_lag_seconds",
            "For how long the oldest of what is over waits to be closed; 0 if nothing does.",
            registry=r,
            multiprocess_mode="livemax",
        )
        self.sessions = Counter(
            "voucher_sessions", "Sessions by what became of them.", ("outcome",), registry=r
        )
        self.batch_size = Histogram(
            "voucher_batch_size", "Calls in a batch.", ("batch",), buckets=_SIZES, registry=r
        )
        self.in_flight = Gauge(
            "voucher_in_flight",
            "Calls in flight: single ones (calls), streams, and health and reflection (probes).",
            ("kind",),
            registry=r,
            multiprocess_mode="livesum",
        )
        self.waiting = Gauge(
            "voucher_waiting",
            "Calls that wait for a batch.",
            ("batch",),
            registry=r,
            multiprocess_mode="livesum",
        )
        self.shed = Counter(
            "voucher_shed",
            "What was not done under load: where, and why. full: at a bound; late: the answer "
            "was expected too late; too_late: the same once its batch began; gone: its caller "
            "had gone.",
            ("where", "why"),
            registry=r,
        )
        self.catalogue_version = Gauge(
            "voucher_catalogue_version",
            "Version of the catalogue that is offered.",
            registry=r,
            multiprocess_mode="livemax",
        )
        self.catalogue_age = Gauge(
            "voucher_catalogue_age_seconds",
            "For how long it has been known that the database has a newer catalogue than the one "
            "that is offered; 0 if it has not.",
            registry=r,
            multiprocess_mode="livemax",
        )
        self.catalogue_refreshes = Counter(
            "voucher_catalogue_refreshes",
            "Refreshes of the in-memory catalogue: all of it (full), what has changed "
            "(incremental), changed locations (locations), or failed.",
            ("kind",),
            registry=r,
        )
        self.catalogue_rows_read = Counter(
            "voucher_catalogue_rows_read",
            "Rows read by these refreshes; of locations only their keys.",
            ("table",),
            registry=r,
        )
        self.events_sequenced = Counter(
            "voucher_events_sequenced",
            "Events that got their place in the stream from this server.",
            registry=r,
        )
        self.events_waiting = Gauge(
            "voucher_events_waiting",
            "Committed events without a place in the stream; counted up to 10,000.",
            registry=r,
            multiprocess_mode="livemax",
        )
        self.events_lag = Gauge(
            "voucher_events_lag_seconds",
            "Age of the oldest of the events counted as waiting; 0 if none waits.",
            registry=r,
            multiprocess_mode="livemax",
        )
        self.event_streams = Gauge(
            "voucher_event_streams",
            "Streams of events that are open.",
            registry=r,
            multiprocess_mode="livesum",
        )
        self._pool = Gauge(
            "voucher_pool_connections",
            "Connections of the pool.",
            ("state",),
            registry=r,
            multiprocess_mode="livesum",
        )
        self.database_up = Gauge(
            "voucher_database_up",
            "1 while the database answers and can be written to.",
            registry=r,
            multiprocess_mode="livemin",
        )
        self.handshakes = Gauge(
            "voucher_tls_handshakes",
            "TLS handshakes begun since the start; one that failed makes no call.",
            registry=r,
            multiprocess_mode="livesum",
        )

        self.token_keys_age = Gauge(
            "voucher_token_keys_age_seconds",
            "For how long the key set at the URL of VOUCHER_TOKEN_KEYS has not been read; 0 for a "
            "file. Beyond 86,400 all tokens are refused.",
            registry=r,
            multiprocess_mode="livemax",
        )

    def batch(self, name: str, size: int) -> None:
        """A batch is flushed."""
        self.batch_size.labels(name).observe(size)

    def count_shed(self, where: str, why: str) -> None:
        """A call, or a part of one, is not done."""
        self.shed.labels(where, why).inc()

    def catalogue_refreshed(self, kind: str, rows: Mapping[str, int]) -> None:
        """A refresh of the in-memory catalogue, with the rows read by table."""
        self.catalogue_refreshes.labels(kind).inc()
        for table, number in rows.items():
            self.catalogue_rows_read.labels(table).inc(number)

    def events_measured(self, waiting: int, lag_s: float) -> None:
        """How many events wait for their place in the stream, and since when."""
        self.events_waiting.set(waiting)
        self.events_lag.set(lag_s)

    def follow(self, gauge: Gauge, value: Callable[[], float]) -> None:
        """Let a gauge say what a function does, whenever it is read.

        What several workers say is read from files, and `write_followed` keeps those.
        """
        gauge.set_function(value)
        self._followed.append((gauge, value))

    def write_followed(self) -> None:
        """Take the present values of all that is followed."""
        for gauge, value in self._followed:
            gauge.set(value())

    def pool_measured(self, connections: int, idle: int) -> None:
        """How many connections the pool has, and how many of them wait for work."""
        self._pool.labels("open").set(connections)
        self._pool.labels("idle").set(idle)
