"""Which tariff prices charging at a place, now and in the coming time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from voucher_grpc.countries import alpha_2
from voucher_grpc.domain.places.location import Connector, Location, connectors_at
from voucher_grpc.domain.pricing.choice import choose_tariff
from voucher_grpc.domain.pricing.tariff import Tariff, TariffKey, TariffType, tariff_key
from voucher_grpc.ocpi import PlaceKey

# By country (ISO 3166-1 alpha-2) and currency.
DefaultTariffs = Mapping[tuple[str, str], Tariff]
Tariffs = Mapping[TariffKey, Tariff]
ALWAYS, NEVER = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
# So many changes of the tariff of a place are known beforehand.
_MOST_COMING = 8


@dataclass(frozen=True, slots=True)
class Found:
    """The tariff of a place, and all that was looked up to find it.

    `looked_up` are the tariffs of its connectors by their id, None where there is none of
    that id; `default` is that of the `country`, if it came to that (`by_default`). It is so from
    `since` until before `until`, when one of them begins or ceases to be valid; `coming` are the
    tariffs after that, each with its instant. `power_w` is that of the connector, 0: not known.
    """

    tariff: Tariff | None
    looked_up: Mapping[str, Tariff | None]
    by_default: bool
    default: Tariff | None = None
    country: str = ""
    since: datetime = ALWAYS
    until: datetime = NEVER
    coming: tuple[tuple[datetime, Tariff | None], ...] = ()
    power_w: int = 0
    time_zone: str = "UTC"


def country_of(place: PlaceKey, location: Location | None) -> str:
    """The country whose tax and default tariff count (ISO 3166-1 alpha-2): that of the place if
    the location states it, else that of its operator."""
    stated = alpha_2(location.country) if location is not None and location.country else None
    return place.country_code if stated is None else stated


def find_tariff(
    place: PlaceKey,
    location: Location | None,
    tariffs: Tariffs,
    defaults: DefaultTariffs,
    currency_code: str,
    at: datetime,
    profile: TariffType = TariffType.REGULAR,
) -> Found:
    """The tariff of a place in a currency ("": any) for a charge that begins `at`: the first
    connector's that has one, else the default of its country."""
    country = country_of(place, location)
    connectors = list(connectors_at(location, place)) if location is not None else []
    looked_up: dict[str, Tariff | None] = {}
    for connector in connectors:
        for tariff_id in connector.tariff_ids:
            key = tariff_key(place.country_code, place.party_id, tariff_id)
            looked_up[tariff_id] = tariffs.get(key)
    candidates = [t for t in looked_up.values() if t is not None]
    # With a tariff of its own that is not valid now, what a place costs is not known.
    by_default = not any(currency_code in ("", t.currency_code) for t in candidates)
    default = defaults.get((country, currency_code)) if by_default else None
    if by_default:
        candidates = [] if default is None else [default]

    def valid(instant: datetime) -> tuple[Tariff | None, int]:
        if by_default:
            power_w = connectors[0].max_power_w if connectors else 0
            return default if default is not None and default.valid_at(instant) else None, power_w
        return _connectors_tariff(connectors, looked_up, instant, currency_code, profile)

    bounds = {b for t in candidates for b in (t.start_time, t.end_time) if b is not None}
    coming = sorted(bound for bound in bounds if bound > at)
    tariff, power_w = valid(at)
    return Found(
        tariff,
        looked_up,
        by_default,
        default,
        country,
        since=max((b for b in bounds if b <= at), default=ALWAYS),
        until=coming[0] if coming else NEVER,
        coming=tuple((bound, valid(bound)[0]) for bound in coming[:_MOST_COMING]),
        power_w=power_w,
        time_zone=location.time_zone if location is not None else "UTC",
    )


def _connectors_tariff(
    connectors: Sequence[Connector],
    tariffs: Mapping[str, Tariff | None],
    at: datetime,
    currency_code: str,
    profile: TariffType,
) -> tuple[Tariff | None, int]:
    """(the first connector's that has one, one for payment ad hoc only if no connector has
    another; that connector's power)."""
    ad_hoc: tuple[Tariff | None, int] = (None, 0)
    for connector in connectors:
        own = [t for t in map(tariffs.get, connector.tariff_ids) if t is not None]
        chosen = choose_tariff(own, at, currency_code, profile)
        if chosen is not None and not chosen.ad_hoc_only:
            return chosen.tariff, connector.max_power_w
        if chosen is not None and ad_hoc[0] is None:
            ad_hoc = chosen.tariff, connector.max_power_w
    return ad_hoc
