"""One frozen configuration, read once from the environment (prefix VOUCHER_).

docs/configuration.md is generated from the fields below.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from voucher_grpc.offers.offer_id import MIN_KEY_BYTES

ENV_PREFIX = "VOUCHER_"


class ConfigError(Exception):
    """The configuration cannot be used; the message names the variable and the bound."""


def _host_and_port(value: str) -> str:
    host, _, port = value.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65_535:
        raise ValueError("must be host:port, for example 127.0.0.1:50051")
    return value


Address = Annotated[str, AfterValidator(_host_and_port)]


class Config(BaseSettings):
    """What a server is told. Times in seconds, rates in basis points."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, frozen=True, extra="ignore", hide_input_in_errors=True
    )

    database_url: SecretStr = Field(
        SecretStr(""), description="Postgres URL; `serve` refuses to start without one."
    )
    listen: Address = Field("127.0.0.1:50051", description="Address of the gRPC server.")
    metrics_listen: Annotated[str, AfterValidator(lambda v: v and _host_and_port(v))] = Field(
        "127.0.0.1:9464", description="Address of /metrics; empty serves none."
    )
    offer_keys: Annotated[dict[int, SecretStr], NoDecode] = Field(
        default_factory=dict,
        description=(
            "Keys that sign offers, as `id:hex,id:hex`: ids 0 to 255, at least 32 bytes each. "
            "The first signs, all verify."
        ),
    )
    offer_lifetime_s: int = Field(
        900, ge=10, le=86_400, description="How long the price of an offer holds."
    )
    hold_lifetime_s: int = Field(
        900, ge=1, le=604_800, description="How long a hold waits for its confirmation."
    )
    vat_rates: Annotated[dict[str, int], NoDecode] = Field(
        default_factory=dict,
        description=(
            "VAT by country for tariffs that do not say theirs, in basis points, "
            "as `NO:2500,DE:1900`. Without one such tariffs count as unpriced."
        ),
    )
    pool_size: int = Field(
        8, ge=1, le=100, description="Connections of the pool; four more are reserved for batches."
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
    read_pace_s: float = Field(
        0.004, ge=0, le=0.1, description="Longest wait between two batches of reads, under load."
    )
    write_pace_s: float = Field(
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
        description="Most single calls under way in a server; more are answered OVERLOADED.",
    )
    max_concurrent_streams: int = Field(
        1024,
        ge=1,
        le=100_000,
        description="Most streaming calls under way in a server; more are answered OVERLOADED.",
    )
    max_connections: int = Field(
        10_000, ge=1, le=1_000_000, description="Most connections; more are closed at once."
    )
    max_connection_streams: int = Field(
        1024,
        ge=1,
        le=100_000,
        description="Most calls under way on one connection; more wait in their client.",
    )
    max_connection_age_s: int = Field(
        3600,
        ge=0,
        le=31_536_000,
        description=(
            "After how long, give or take a tenth, clients are asked to connect anew, so that "
            "connections spread over servers that were added; calls under way end as usual. "
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
        10.0, ge=0, le=300, description="How long a stop waits for calls under way."
    )
    health_interval_s: float = Field(
        1.0, gt=0, le=60, description="Time between two looks at the database for health."
    )
    slow_call_s: float = Field(1.0, gt=0, le=60, description="Calls that take longer are logged.")
    reflection: bool = Field(True, description="Whether gRPC reflection is served.")
    log_format: Literal["json", "console"] = Field("json", description="Form of the logs.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least level that is logged."
    )

    @field_validator("offer_keys", mode="before")
    @classmethod
    def _read_keys(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        keys: dict[int, SecretStr] = {}
        for part in filter(None, value.split(",")):
            key_id, _, key = part.strip().partition(":")
            if not key_id.isdigit() or int(key_id) > 255 or int(key_id) in keys:
                raise ValueError("must be id:hex,id:hex with ids 0 to 255, none twice")
            try:
                length = len(bytes.fromhex(key))
            except ValueError:
                raise ValueError(f"key {key_id} must be hexadecimal") from None
            if length < MIN_KEY_BYTES:
                raise ValueError(f"key {key_id} must have at least {MIN_KEY_BYTES} bytes")
            keys[int(key_id)] = SecretStr(key)
        return keys

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

    def offer_key_bytes(self) -> dict[int, bytes]:
        """The keys, the signing one first."""
        return {
            key_id: bytes.fromhex(key.get_secret_value()) for key_id, key in self.offer_keys.items()
        }


def read_config(**overrides: object) -> Config:
    """The configuration from the environment and the command line. Raises ConfigError."""
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        return Config(**given)  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        name = ENV_PREFIX + "_".join(str(part) for part in first["loc"]).upper()
        message = first["msg"].removeprefix("Value error, ")
        raise ConfigError(f"{name}: {message}") from None


def markdown_table() -> str:
    """The table of docs/configuration.md."""
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    for name, field in Config.model_fields.items():
        default = "" if field.default_factory else field.default
        if isinstance(default, SecretStr):
            default = default.get_secret_value()
        shown = f"`{default}`" if default != "" else ""
        rows.append(f"| `{ENV_PREFIX}{name.upper()}` | {shown} | {field.description} |")
    return "\n".join(rows) + "\n"
