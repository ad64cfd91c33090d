"""Every kind of terms that the service takes, for round trips."""

import string
from datetime import UTC, date, datetime

from hypothesis import strategies as st

from voucher_grpc.domain.catalogue.conditions import Restrictions, Selectors, UsageConditions
from voucher_grpc.domain.catalogue.product import (
    FIRST_USE_WITHIN_DAYS,
    EnergyBundle,
    EnergyPrice,
    FlatPeriod,
    PercentageOff,
    PersonalLimit,
    SessionBundle,
    Terms,
    Validity,
    ValidityStart,
)
from voucher_grpc.money import Money
from voucher_grpc.ocpi import CONNECTOR_STANDARDS, DAYS, PlaceKey, PowerType, VehicleType

energies = st.integers(1, 100_000_000)
instants = st.datetimes(
    datetime(1970, 1, 1),  # noqa: DTZ001
    datetime(2099, 12, 31),  # noqa: DTZ001
    timezones=st.just(UTC),
)
texts = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), min_size=1, max_size=60
).filter(str.strip)
places = st.builds(
    PlaceKey,
    st.just("NO"),
    st.sampled_from(["OSL", "BKK", "123"]),
    st.text("abcXYZ019-_*!~", min_size=1, max_size=36),
    st.just("evse"),
    st.sampled_from(["", "connector"]),
)


def ranges(top: int) -> st.SearchStrategy[tuple[int | None, int | None]]:
    """A lower and an upper bound with something between them."""
    both = st.tuples(st.integers(0, top - 1), st.integers(1, top)).filter(lambda r: r[0] < r[1])
    return st.one_of(
        st.just((None, None)),
        both,
        st.tuples(st.integers(0, top), st.none()),
        st.tuples(st.none(), st.integers(1, top)),
    )


@st.composite
def restrictions(draw: st.DrawFn) -> Restrictions:
    """OCPI TariffRestrictions within the bounds of the service."""
    start = draw(st.one_of(st.none(), st.integers(0, 1439)))
    end = draw(st.one_of(st.none(), st.integers(0, 1439)))
    first = draw(st.one_of(st.none(), st.dates(date(2000, 1, 1), date(2049, 12, 31))))
    last = draw(st.one_of(st.none(), st.dates(date(2050, 1, 1), date(2099, 12, 31))))
    return Restrictions(
        start,
        None if end == start and start else end,
        first,
        last,
        draw(st.frozensets(st.sampled_from(DAYS))),
        *draw(ranges(100_000_000)),
        *draw(ranges(100_000_000)),
        *draw(ranges(10_000_000)),
        *draw(ranges(31 * 86_400)),
    )


selectors = st.builds(
    Selectors,
    parties=st.lists(st.sampled_from([("NO", ""), ("SE", "ABC"), ("DK", "1A2")]), max_size=3).map(
        tuple
    ),
    locations=st.lists(places, max_size=3).map(tuple),
    connector_standards=st.frozensets(st.sampled_from(sorted(CONNECTOR_STANDARDS)), max_size=5),
    power_types=st.frozensets(st.sampled_from(list(PowerType))),
    min_connector_power_w=st.one_of(st.none(), st.integers(0, 50_000)),
    max_connector_power_w=st.one_of(st.none(), st.integers(50_000, 10_000_000)),
    vehicle_types=st.frozensets(st.sampled_from(list(VehicleType))),
)


@st.composite
def validities(draw: st.DrawFn) -> Validity:
    """Days or months from any start."""
    days = draw(st.integers(0, 3_660))
    start = draw(st.sampled_from(list(ValidityStart)))
    first_use = start is ValidityStart.FIRST_USE
    return Validity(
        days=days,
        months=0 if days else draw(st.integers(1, 120)),
        start=start,
        start_time=draw(instants) if start is ValidityStart.AT else None,
        first_use_within_days=draw(st.integers(1, 3_660)) if first_use else FIRST_USE_WITHIN_DAYS,
    )


benefits = st.one_of(
    st.builds(EnergyBundle, energies),
    st.builds(SessionBundle, st.integers(1, 10_000), st.integers(0, 100_000_000)),
    st.builds(EnergyPrice, st.integers(0, 10_000_000_000)),
    st.builds(PercentageOff, st.integers(1, 10_000)),
    st.builds(FlatPeriod, energies),
)


@st.composite
def all_terms(draw: st.DrawFn) -> Terms:
    """Terms with everything that may be set."""
    sale = sorted(draw(st.lists(instants, min_size=2, max_size=2, unique=True)))
    return Terms(
        product_id=draw(
            st.text(string.ascii_letters + string.digits + "-_.", min_size=1, max_size=64)
        ),
        display_name=draw(texts),
        description=draw(st.one_of(st.just(""), texts)),
        price=Money(draw(st.integers(0, 100_000_000)) * 10_000, "NOK"),
        tax_rate_basis_points=draw(st.integers(0, 10_000)),
        benefit=draw(benefits),
        conditions=UsageConditions(
            tuple(draw(st.lists(restrictions(), max_size=3))), draw(selectors)
        ),
        validity=draw(validities()),
        time_zone=draw(st.sampled_from(["Europe/Oslo", "UTC", "America/Indiana/Knox"])),
        stock=draw(st.one_of(st.none(), st.integers(0, 1_000_000_000))),
        personal_limit=draw(
            st.one_of(
                st.none(),
                st.builds(PersonalLimit, st.integers(1, 1_000), st.integers(0, 3_660)),
            )
        ),
        sale_start_time=draw(st.sampled_from([None, sale[0]])),
        sale_end_time=draw(st.sampled_from([None, sale[1]])),
        default_offer=draw(st.booleans()),
    )
