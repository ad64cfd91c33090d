"""One frozen configuration, read once from the environment (prefix VOUCHER_).

docs/configuration.md is generated from the fields below.
"""

from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from voucher_grpc.access.rates import Rate, read_rates
from voucher_grpc.access.roles import Role
from voucher_grpc.domain.offer_ids.keys import OfferKeys, read_offer_keys

ENV_PREFIX = "VOUCHER_"


class ConfigError(Exception):
    """The configuration cannot be used; the message names the variable and the bound."""


def _host_and_port(value: str) -> str:
    host, _, port = value.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65_535:
        raise ValueError("must be host:port, for example 127.0.0.1:50051")
    return value


Address = Annotated[str, AfterValidator(_host_and_port)]
OptionalAddress = Annotated[str, AfterValidator(lambda value: value and _host_and_port(value))]
# An empty variable names no file: Path("") would be the working folder.
OptionalPath = Annotated[Path | None, BeforeValidator(lambda value: value or None)]
_MAX_SECRET_BYTES = 65_536


def _is_loopback(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _secret_from(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from None
    if len(content) > _MAX_SECRET_BYTES:
        raise ValueError(f"must have at most {_MAX_SECRET_BYTES} bytes")
    return content.decode("utf-8", "replace").strip()


class Config(BaseSettings):
    """The settings of a server. Times in seconds, rates in basis points."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, frozen=True, extra="ignore", hide_input_in_errors=True
    )

    database_url: SecretStr = Field(
        SecretStr(""), description="Postgres URL; `serve` refuses to start without one."
    )
    database_url_file: OptionalPath = Field(
        None, description="A file that holds the Postgres URL, instead of the URL itself."
    )
    listen: Address = Field("127.0.0.1:50051", description="Address of the gRPC server.")
    metrics_listen: OptionalAddress = Field(
        "127.0.0.1:9464", description="Address of /metrics; empty serves none."
    )
    workers: int = Field(
        1,
        ge=1,
        le=64,
        description=(
            "Processes of `serve` that share the port; more than 1 needs Linux. What is bounded "
            "below is bounded in each, also the pool."
        ),
    )
    worker_memory_mb: int = Field(
        2_048,
        ge=64,
        description=(
            "Resident memory from which one of several workers is replaced, as by a reload; "
            "a single process is bounded by what started it."
        ),
    )
    offer_keys: Annotated[OfferKeys, NoDecode] = Field(
        (),
        exclude=True,
        repr=False,
        description=(
            "Keys that sign offers, as `id:hex,id:hex`: ids 0 to 255, at least 32 bytes each. "
            "All verify; the first signs, unless others have a time as `id:hex@time`, from when "
            "on they sign."
        ),
    )
    offer_keys_file: OptionalPath = Field(
        None,
        description=(
            "A file that holds the offer keys; it is read again when it has changed. "
            "`voucher-grpc offer-keys rotate` changes it."
        ),
    )
    tls_certificate_file: OptionalPath = Field(
        None,
        description="The server's certificate with its chain, PEM; read again when it has changed.",
    )
    tls_key_file: OptionalPath = Field(None, description="The certificate's key, PEM.")
    tls_client_ca_file: OptionalPath = Field(
        None,
        description=(
            "The authority of clients' certificates, PEM. With it callers must show one, on "
            "`VOUCHER_MTLS_LISTEN` if that is set, else on `VOUCHER_LISTEN`."
        ),
    )
    mtls_listen: OptionalAddress = Field(
        "", description="Another address, where callers must show a certificate."
    )
    token_keys: str = Field(
        "",
        description=(
            "The JSON Web Key Set of those who issue tokens: a file, read again when it has "
            "changed, or an https URL. With it callers without a certificate need a token."
        ),
    )
    token_issuer: str = Field("", description="What tokens must have as `iss`.")
    token_audience: str = Field("voucher-grpc", description="What tokens must have in `aud`.")
    token_leeway_s: int = Field(
        30, ge=0, le=300, description="How far the clock of a token's issuer may be off."
    )
    token_keys_refresh_s: float = Field(
        300.0,
        ge=1,
        le=3_600,
        description=(
            "Time between two reads of a key set at a URL. One that cannot be fetched any more is "
            "trusted for 24 hours."
        ),
    )
    tokens_in_clear: bool = Field(
        False,
        description=(
            "Take tokens without TLS off the loopback address, because something in front (a "
            "mesh, a proxy) has TLS."
        ),
    )
    serve_anybody_without_credentials: bool = Field(
        False,
        description=(
            "Serve off the loopback address although neither tokens nor certificates are "
            "configured: whoever reaches the port may do everything."
        ),
    )
    rate_limits: Annotated[Mapping[Role, Rate], NoDecode] = Field(
        {
            Role.USER: Rate(20, 100),
            Role.STATION: Rate(20, 1_000),
            Role.OPERATOR: Rate(20, 20_000),
        },
        description=(
            "Calls that one caller may make, by role, as `role:calls a second/calls at once`, "
            "for all workers of a server together. A caller with a role that is not named is "
            "not limited."
        ),
    )
    offer_lifetime_s: int = Field(
        900, ge=10, le=86_400, description="How long the price of an offer holds."
    )
    authorization_lifetime_s: int = Field(
        43_200,
        ge=1,
        le=604_800,
        description="How long what AuthorizeCharge reserves waits for the charge's capture.",
    )
    authorization_energy_wh: int = Field(
        100_000,
        ge=1,
        le=100_000_000,
        description="What AuthorizeCharge reserves where the station does not say how much, Wh.",
    )
    hold_lifetime_s: int = Field(
        900, ge=1, le=604_800, description="How long a hold waits for its confirmation."
    )
    vat_rates: Annotated[dict[str, int], NoDecode] = Field(
        default_factory=dict,
        description=(
            "VAT by country for tariffs that do not say theirs, in basis points, "
            "as `NO:2500,DE:1900`. Without one they cost what they state."
        ),
    )
    pool_size: int = Field(
        8,
        ge=1,
        le=100,
        description=(
            "Connections of the pool; six more are for batches, the catalogue and probes of "
            "the database."
        ),
    )
    connect_timeout_s: float = Field(5.0, gt=0, le=60, description="Longest wait for a connection.")
    statement_timeout_s: float = Field(
        10.0, gt=0, le=300, description="Longest run of one statement."
    )
    statement_cache_size: int = Field(
        200,
        ge=0,
        le=10_000,
        description="Prepared statements a connection keeps; 0 behind PgBouncer before 1.21.",
    )
    read_batch_interval_s: float = Field(
        0.004, ge=0, le=0.1, description="Longest wait between two batches of reads, under load."
    )
    write_batch_interval_s: float = Field(
        0.004,
        ge=0,
        le=0.1,
        description="Longest wait between two batches of purchases, under load.",
    )
    max_batch: int = Field(256, ge=1, le=1024, description="Most calls in one batch.")
    max_waiting: int = Field(
        4096,
        ge=1,
        le=100_000,
        description="Most calls that wait for a batch; more are answered OVERLOADED.",
    )
    max_concurrent_calls: int = Field(
        4096,
        ge=1,
        le=100_000,
        description="Most single calls in flight in a server; more are answered OVERLOADED.",
    )
    max_concurrent_streams: int = Field(
        1024,
        ge=1,
        le=100_000,
        description="Most streaming calls in flight in a server; more are answered OVERLOADED.",
    )
    max_connections: int = Field(
        10_000, ge=1, le=1_000_000, description="Most connections; more are closed at once."
    )
    max_connection_streams: int = Field(
        100,
        ge=1,
        le=100_000,
        description="Most calls in flight on one connection; more wait in their client.",
    )
    max_connection_age_s: int = Field(
        3600,
        ge=0,
        le=31_536_000,
        description=(
            "After how long, give or take a tenth, clients are asked to connect anew, so that "
            "connections spread over servers that were added; calls in flight end as usual. "
            "0 is never."
        ),
    )
    max_message_bytes: int = Field(
        1_048_576, ge=65_536, le=16_777_216, description="Largest message taken."
    )
    event_retention_days: int = Field(
        0,
        ge=0,
        le=36_500,
        description=(
            "How long events stay in the stream that other systems read; 0 is for ever. "
            "It counts from when it was first set."
        ),
    )
    max_event_streams: int = Field(
        100,
        ge=1,
        le=10_000,
        description="Most streams of events open at a time; more are answered OVERLOADED.",
    )
    drain_timeout_s: float = Field(
        10.0, ge=0, le=300, description="How long a stop waits for calls in flight."
    )
    health_interval_s: float = Field(
        1.0, gt=0, le=60, description="Time between two database probes for health."
    )
    db_probe_timeout_s: float = Field(
        2.0,
        gt=0,
        le=60,
        description=(
            "Longest wait for the answer to such a probe; then the database counts as away "
            "and calls are refused at once until one succeeds."
        ),
    )
    slow_call_s: float = Field(1.0, gt=0, le=60, description="Calls that take longer are logged.")
    tracing: Literal["off", "otlp"] = Field(
        "off",
        description=(
            "`otlp` sends OpenTelemetry traces (extra `otel`, "
            "[tracing.md](tracing.md)); the variables `OTEL_*` say where to and how many."
        ),
    )
    reflection: bool = Field(True, description="Whether gRPC reflection is served.")
    log_format: Literal["json", "console"] = Field("json", description="Form of the logs.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least level that is logged."
    )

    @model_validator(mode="before")
    @classmethod
    def _read_secrets(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Take secrets from the files that are named for them."""
        for name in ("database_url", "offer_keys"):
            path = values.get(f"{name}_file")
            if not path:
                continue
            if values.get(name):
                raise ValueError(f"{ENV_PREFIX}{name.upper()} and its _FILE are both set")
            try:
                values[name] = _secret_from(Path(path))
            except ValueError as error:
                raise ValueError(f"{ENV_PREFIX}{name.upper()}_FILE: {error}") from None
        return values

    @field_validator("offer_keys", mode="before")
    @classmethod
    def _read_keys(cls, value: object) -> object:
        return read_offer_keys(value) if isinstance(value, str) else value

    @field_validator("rate_limits", mode="before")
    @classmethod
    def _read_rate_limits(cls, value: object) -> object:
        return read_rates(value) if isinstance(value, str) else value

    @field_validator("token_keys")
    @classmethod
    def _refuse_clear_url(cls, value: str) -> str:
        """Token keys must not come over a connection that others can change."""
        parts = urlsplit(value)
        if parts.scheme == "http" and not _is_loopback(f"{parts.hostname}:0"):
            raise ValueError("must be a file or an https URL")
        return value.strip()

    @model_validator(mode="after")
    def _refuse_open_doors(self) -> Self:
        """Raise for a server that would be open to everyone by accident."""
        if (self.tls_certificate_file is None) != (self.tls_key_file is None):
            raise ValueError("VOUCHER_TLS_CERTIFICATE_FILE and VOUCHER_TLS_KEY_FILE go together")
        if self.tls_client_ca_file and not self.tls_certificate_file:
            raise ValueError("VOUCHER_TLS_CLIENT_CA_FILE needs VOUCHER_TLS_CERTIFICATE_FILE")
        if self.mtls_listen and not self.tls_client_ca_file:
            raise ValueError("VOUCHER_MTLS_LISTEN needs VOUCHER_TLS_CLIENT_CA_FILE")
        if self.mtls_listen and not self.token_keys:
            raise ValueError("VOUCHER_MTLS_LISTEN needs VOUCHER_TOKEN_KEYS for VOUCHER_LISTEN")
        if self.token_keys and not self.token_issuer:
            raise ValueError("VOUCHER_TOKEN_KEYS needs VOUCHER_TOKEN_ISSUER")
        if not _is_loopback(self.listen):
            self._refuse_open_network()
        return self

    def _refuse_open_network(self) -> None:
        if not (self.has_credentials or self.serve_anybody_without_credentials):
            raise ValueError(
                f"VOUCHER_LISTEN {self.listen} is not the loopback address, and neither tokens "
                "(VOUCHER_TOKEN_KEYS) nor certificates (VOUCHER_TLS_CLIENT_CA_FILE) are "
                "configured; VOUCHER_SERVE_ANYBODY_WITHOUT_CREDENTIALS=true if that is meant"
            )
        if self.token_keys and not (self.tls_certificate_file or self.tokens_in_clear):
            raise ValueError(
                "tokens would travel in clear: set VOUCHER_TLS_CERTIFICATE_FILE, or "
                "VOUCHER_TOKENS_IN_CLEAR=true where something in front has TLS"
            )

    @property
    def has_credentials(self) -> bool:
        """Whether callers are asked who they are."""
        return bool(self.token_keys or self.tls_client_ca_file)

    @field_validator("vat_rates", mode="before")
    @classmethod
    def _read_rates(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        rates: dict[str, int] = {}
        for part in filter(None, value.split(",")):
            country, _, rate = part.strip().partition(":")
            if len(country) != 2 or not country.isupper() or not rate.isdigit():
                raise ValueError("must be COUNTRY:basis points, for example NO:2500")
            if int(rate) > 10_000:
                raise ValueError("must be at most 10000 basis points")
            rates[country] = int(rate)
        return rates


def read_config(**overrides: object) -> Config:
    """The configuration from the environment and the command line. Raises ConfigError."""
    given = {name: value for name, value in overrides.items() if value is not None}
    # What is given for a secret comes before a file that the environment names for it.
    given |= {f"{name}_file": None for name in ("database_url", "offer_keys") if name in given}
    try:
        return Config(**given)  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        message = first["msg"].removeprefix("Value error, ")
        # What concerns several settings names them itself.
        name = ENV_PREFIX + "_".join(str(part) for part in first["loc"]).upper() + ": "
        raise ConfigError((name if first["loc"] else "") + message) from None


def markdown_table() -> str:
    """The table of docs/configuration.md."""
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    for name, field in Config.model_fields.items():
        default: Any = "" if field.default_factory else field.default
        if isinstance(default, SecretStr):
            default = default.get_secret_value()
        if name == "rate_limits":
            default = ",".join(f"{role}:{r.per_s:g}/{r.burst}" for role, r in default.items())
        shown = f"`{default}`" if default not in ("", None, ()) else ""
        rows.append(f"| `{ENV_PREFIX}{name.upper()}` | {shown} | {field.description} |")
    return "\n".join(rows) + "\n"
