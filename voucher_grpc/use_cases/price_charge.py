"""What a charge costs at a place without a pass, by the tariffs that offers are made from."""

from collections.abc import Callable, Mapping
from datetime import datetime
from fractions import Fraction
from zoneinfo import ZoneInfo

from voucher_grpc.domain.offers.place_tariffs import country_of, find_tariff
from voucher_grpc.domain.offers.snapshot import Snapshot
from voucher_grpc.domain.places.location import Location, place_exists
from voucher_grpc.domain.pricing.charge import Charge, charge_at_connector, charge_between
from voucher_grpc.domain.pricing.charge_at_place import ChargeAtPlace, PricedCharge
from voucher_grpc.domain.pricing.engine import Pricer
from voucher_grpc.domain.pricing.remarks import Remark, Warned, remarks
from voucher_grpc.domain.pricing.split import Cuts, cuts_of, split
from voucher_grpc.domain.pricing.tariff import Tariff, TariffType, tariff_key
from voucher_grpc.errors import Reason, Refusal, bad_field
from voucher_grpc.money import BASIS_POINTS
from voucher_grpc.ocpi import PlaceKey
from voucher_grpc.runtime.event_loop_share import EventLoopShare
from voucher_grpc.steps import Steps
from voucher_grpc.store.places import PlaceStore
from voucher_grpc.store.stored_places import location_key

MAX_PERIODS = 1_000
# How many elements may be looked at, in all periods together: some 0.1 s.
_MOST_LOOKED_AT = 100_000


class PriceCharge:
    """Prices charges at places. `snapshot` gives the one that offers are made from."""

    def __init__(
        self,
        places: PlaceStore,
        snapshot: Callable[[], Snapshot],
        vat_rates: Mapping[str, int],
        share: EventLoopShare,
    ) -> None:
        self._places = places
        self._snapshot = snapshot
        self._vat_rates = vat_rates
        self._share = share

    async def price(self, asked: ChargeAtPlace) -> PricedCharge:
        """Raises BadInput, LOCATION_NOT_FOUND and TARIFF_NOT_FOUND."""
        location = (await self._places.get_location(location_key(asked.place))).read().location
        if not place_exists(location, asked.place):
            raise Refusal(
                Reason.LOCATION_NOT_FOUND,
                f"location {location.location_id} has no EVSE or connector of that id",
            )
        tariff, power_w = _tariff_of(asked, location, self._snapshot())
        vat = self._vat_rates.get(country_of(asked.place, location))
        rate = None if vat is None else Fraction(vat, BASIS_POINTS)
        return await self._share.run(_priced(asked, location, tariff, power_w, rate))


def tariff_at_place(
    place: PlaceKey,
    location: Location,
    snapshot: Snapshot,
    at: datetime,
    currency_code: str = "",
    profile: TariffType = TariffType.REGULAR,
) -> tuple[Tariff | None, int]:
    """(the tariff of a charge that begins `at`, the connector's power). Without a currency it is
    that of the connector, or the first of the country that has a default."""
    tariffs, defaults = snapshot.tariffs, snapshot.default_tariffs
    country = country_of(place, location)
    in_country = sorted(code for of, code in defaults if of == country)
    tariff, power_w = None, 0
    for code in (currency_code,) if currency_code else ("", *in_country):
        found = find_tariff(place, location, tariffs, defaults, code, at, profile)
        tariff, power_w = found.tariff, found.power_w
        if tariff is not None:
            break
    return tariff, power_w


def _tariff_of(asked: ChargeAtPlace, location: Location, snapshot: Snapshot) -> tuple[Tariff, int]:
    """(the tariff, the connector's power)."""
    place = asked.place
    tariff, power_w = tariff_at_place(
        place, location, snapshot, asked.start, asked.currency_code, asked.profile
    )
    if asked.tariff_id:
        key = tariff_key(place.country_code, place.party_id, asked.tariff_id)
        tariff = snapshot.tariffs.get(key)
        if tariff is not None and asked.currency_code not in ("", tariff.currency_code):
            tariff = None
    if tariff is None:
        raise Refusal(
            Reason.TARIFF_NOT_FOUND,
            f"no tariff {asked.tariff_id or 'that is valid at the start'} is known for the place"
            + (f" in {asked.currency_code}" if asked.currency_code else ""),
        )
    return tariff, power_w


def _priced(
    asked: ChargeAtPlace,
    location: Location,
    tariff: Tariff,
    connector_power_w: int,
    rate: Fraction | None,
) -> Steps[PricedCharge]:
    cuts, zone = cuts_of(tariff), ZoneInfo(location.time_zone)
    most = min(MAX_PERIODS, _MOST_LOOKED_AT // len(tariff.elements))
    if _most_periods(cuts, asked) > most:
        raise bad_field(
            "end_time",
            f"must be so early that the tariff cuts the charge into at most {most} periods",
        )
    periods = split(_charge(asked, connector_power_w), cuts, zone)
    price = yield from Pricer(tariff, zone, rate).priced(periods)
    said = remarks(tariff, periods, price)
    if not asked.power_w:
        of = "the connector's power" if connector_power_w else "the mean power"
        said.append(Warned(Remark.ASSUMED_POWER, f"no power is stated: {of} is assumed"))
    return PricedCharge(tariff, price, said)


def _charge(asked: ChargeAtPlace, connector_power_w: int) -> Charge:
    energy_wh = Fraction(asked.energy_wh)
    if asked.power_w:
        return charge_between(asked.start, asked.end, energy_wh, Fraction(asked.power_w))
    if not connector_power_w:
        return charge_between(asked.start, asked.end, energy_wh)
    return charge_at_connector(asked.start, asked.end, asked.energy_wh, connector_power_w)


def _most_periods(cuts: Cuts, asked: ChargeAtPlace) -> int:
    days = (asked.end - asked.start).days + 2
    return len(cuts.minutes) * days + len(cuts.energies_wh) + len(cuts.durations_s) + 2
