"""What the measured database holds: users with habits, a catalogue, tariffs, locations.

The same seed makes the same world. Tendencies are those of a few hundred made-up
users, built by the service's own code and handed out to all.
"""

import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fractions import Fraction

from voucher_grpc.domain.catalogue.conditions import Restrictions, Selectors, UsageConditions
from voucher_grpc.domain.catalogue.document import terms_to_document
from voucher_grpc.domain.catalogue.product import (
    Benefit,
    EnergyBundle,
    EnergyPrice,
    FlatPeriod,
    PercentageOff,
    PersonalLimit,
    SessionBundle,
    Terms,
    Validity,
)
from voucher_grpc.domain.places.document import vehicle_profile_to_document
from voucher_grpc.domain.places.location import Connector, Evse, Location, VehicleProfile
from voucher_grpc.domain.pricing.tariff import (
    Dimension,
    PriceComponent,
    PriceLimit,
    Tariff,
    TariffElement,
)
from voucher_grpc.domain.tendencies.forecast import default_parameters, forecasts
from voucher_grpc.domain.tendencies.recording import PlaceWeights, add_place
from voucher_grpc.domain.tendencies.tendency import Session, Tendency, rebuild
from voucher_grpc.money import MICROS, Money
from voucher_grpc.ocpi import Day, PlaceKey, PowerType
from voucher_grpc.runtime.event_loop_share import EventLoopShare
from voucher_grpc.store import queries
from voucher_grpc.store.database import Database
from voucher_grpc.store.driver import Connection, DatabaseOptions, connect
from voucher_grpc.store.location_cache import LocationCache
from voucher_grpc.store.migrate import migrate
from voucher_grpc.store.places import PlaceStore

SEED = 20_261_122
COUNTRY, CURRENCY, ZONE = "NO", "NOK", "Europe/Oslo"
PARTIES = ("AAA", "BBB", "CCC")
LOCATIONS = 30
OFFER_KEY_ID = 1
OFFER_KEY = bytes(range(32))
# More than any run sells: the lock on the stock is measured, not its end.
LARGE_STOCK = 1_000_000_000
HOT_PRODUCT = "hot"
_DISTINCT_HABITS = 300
_DAYS_OF_HISTORY = 150


@dataclass(frozen=True, slots=True)
class Priced:
    """A product that a client can name in an offer."""

    product_id: str
    price_micros: int


VAT = Fraction(1, 4)


def options(url: str) -> DatabaseOptions:
    """How everything here connects."""
    return DatabaseOptions(url, 8, 5.0, 600.0, 200)


async def new_database(cluster_url: str, name: str) -> str:
    """The URL of a new, empty database of the same Postgres."""
    connection = await connect(options(cluster_url))
    try:
        await connection.execute(f'CREATE DATABASE "{name}"')
    finally:
        await connection.close()
    head, mark, query = cluster_url.partition("?")
    return f"{head.rsplit('/', 1)[0]}/{name}{mark}{query}"


def user_id(number: int) -> str:
    """The name of a user, 0 to users - 1."""
    return f"user-{number:07d}"


def vehicle_id(number: int) -> str:
    """The name of the vehicle registered with that user."""
    return f"vehicle-{number:07d}"


def place(number: int) -> PlaceKey:
    """One of the locations."""
    number %= LOCATIONS
    return PlaceKey(COUNTRY, PARTIES[number % len(PARTIES)], f"LOC{number:03d}")


def _benefit(number: int, chance: random.Random) -> tuple[Benefit, int]:
    """A benefit and a price in NOK that is sometimes worth it at about 5 NOK per kWh."""
    match number % 5:
        case 0:
            kwh = chance.choice((20, 40, 60, 80, 120, 160, 240))
            return EnergyBundle(kwh * 1000), round(kwh * chance.uniform(2.9, 4.9))
        case 1:
            sessions = chance.choice((4, 8, 12, 20))
            return SessionBundle(sessions, 30_000), sessions * chance.randint(55, 110)
        case 2:
            return EnergyPrice(chance.randint(290, 450) * 10_000), chance.randint(29, 149)
        case 3:
            return PercentageOff(chance.randint(8, 30) * 100), chance.randint(19, 119)
        case _:
            kwh = chance.choice((150, 250, 400, 600))
            return FlatPeriod(kwh * 1000), round(kwh * chance.uniform(1.5, 2.9))


def _conditions(number: int, chance: random.Random) -> UsageConditions:
    match number % 7:
        case 1:
            return UsageConditions((Restrictions(start_minute=22 * 60, end_minute=6 * 60),))
        case 2:
            weekend = frozenset({Day.SATURDAY, Day.SUNDAY})
            return UsageConditions((Restrictions(day_of_week=weekend),))
        case 3:
            return UsageConditions(
                selectors=Selectors(parties=((COUNTRY, chance.choice(PARTIES)),))
            )
        case 4:
            return UsageConditions(selectors=Selectors(power_types=frozenset({PowerType.DC})))
        case 5:
            start = chance.randint(5, 15) * 60
            return UsageConditions((Restrictions(start_minute=start, end_minute=start + 300),))
        case _:
            return UsageConditions()


def catalogue(count: int) -> list[Terms]:
    """The products: the first is the default one, the last the hot one with its stock."""
    chance = random.Random(SEED)
    products = [_terms("default", PercentageOff(1000), 49, UsageConditions(), default_offer=True)]
    for number in range(1, count - 1):
        benefit, price = _benefit(number, chance)
        products.append(
            _terms(
                f"product-{number:05d}",
                benefit,
                price,
                _conditions(number, chance),
                # A tenth is limited, so that limits and stock are looked at, never reached.
                stock=LARGE_STOCK if number % 10 == 0 else None,
                limit=PersonalLimit(1_000_000, 30) if number % 10 == 5 else None,
            )
        )
    hot = _terms(HOT_PRODUCT, EnergyBundle(50_000), 199, UsageConditions(), stock=LARGE_STOCK)
    return [*products, hot]


def _terms(
    product_id: str,
    benefit: Benefit,
    price: int,
    conditions: UsageConditions,
    *,
    stock: int | None = None,
    limit: PersonalLimit | None = None,
    default_offer: bool = False,
) -> Terms:
    return Terms(
        product_id=product_id,
        display_name=f"Charging pass {product_id}",
        description="Good at the stations of all operators that take part.",
        price=Money(price * MICROS, CURRENCY),
        tax_rate_basis_points=2500,
        benefit=benefit,
        conditions=conditions,
        validity=Validity(months=1),
        time_zone=ZONE,
        stock=stock,
        personal_limit=limit,
        default_offer=default_offer,
    )


def priced(count: int) -> list[Priced]:
    """What a client can buy."""
    return [Priced(terms.product_id, terms.price.micros) for terms in catalogue(count)]


def usual_tariff() -> Tariff:
    day = Restrictions(start_minute=6 * 60, end_minute=22 * 60)
    return Tariff(
        COUNTRY,
        PARTIES[0],
        "STANDARD",
        CURRENCY,
        (
            TariffElement((PriceComponent(Dimension.ENERGY, 4_400_000, VAT),), day),
            TariffElement((PriceComponent(Dimension.ENERGY, 3_600_000, VAT),)),
        ),
        default_for_country=True,
    )


def own_tariff(party_id: str) -> Tariff:
    """Tiers, steps, an hourly price after a while and a limit: that of each second location."""
    small, late = Restrictions(max_energy_wh=10_000), Restrictions(min_duration_s=3 * 3_600)
    return Tariff(
        COUNTRY,
        party_id,
        "TIERED",
        CURRENCY,
        (
            TariffElement((PriceComponent(Dimension.ENERGY, 4_800_000, VAT, 500),), small),
            TariffElement((PriceComponent(Dimension.ENERGY, 3_700_000, VAT, 500),)),
            TariffElement((PriceComponent(Dimension.TIME, 6_000_000, VAT, 900),), late),
        ),
        max_price=PriceLimit(300_000_000),
    )


def _location(number: int) -> Location:
    key = place(number)
    tariffs = ("TIERED",) if number % 2 else ()
    connectors = (
        Connector("1", "IEC_62196_T2_COMBO", PowerType.DC, 150_000, tariffs),
        Connector("2", "IEC_62196_T2", PowerType.AC_3_PHASE, 22_000, tariffs),
    )
    evses = (Evse("E1", connectors[:1]), Evse("E2", connectors[1:] if number % 3 else connectors))
    return Location(
        key.country_code, key.party_id, key.location_id, ZONE, f"Location {number}", evses
    )


@dataclass(frozen=True, slots=True)
class Habit:
    """What one made-up user left behind."""

    tendency: Tendency
    places: PlaceWeights


def _habit(number: int, now: datetime) -> Habit:
    """Sessions of 150 days with a favourite hour, day and place."""
    chance = random.Random(SEED + number)
    favourites = [place(chance.randrange(LOCATIONS)) for _ in range(chance.randint(1, 4))]
    hour, per_month = chance.choice((7, 12, 17, 20, 23)), chance.uniform(3, 25)
    mean_wh = chance.uniform(8_000, 45_000)
    sessions, weights = [], PlaceWeights()
    for session in range(max(4, round(per_month * _DAYS_OF_HISTORY / 30))):
        start = (now - timedelta(days=chance.uniform(0.1, _DAYS_OF_HISTORY))).replace(
            hour=round(chance.gauss(hour, 2)) % 24
        )
        made = Session(
            "habit",
            str(session),
            chance.choice(favourites),
            ZONE,
            start,
            start + timedelta(hours=chance.uniform(0.5, 6)),
            round(mean_wh * chance.uniform(0.4, 1.6)),
        )
        sessions.append(made)
        add_place(weights, made)
    return Habit(rebuild(sessions), weights)


async def make_world(url: str, users: int, products: int) -> None:
    """Migrate an empty database and fill it."""
    await migrate(url)
    connection = await connect(options(url))
    try:
        await write_products(connection, catalogue(products))
        await _write_users(connection, users)
        await _write_habits(connection, users)
        await connection.execute("VACUUM ANALYZE")
        await connection.execute("CHECKPOINT")
    finally:
        await connection.close()
    async with Database.open(options(url)) as database:
        store = PlaceStore(database, LocationCache(), EventLoopShare())
        await store.upsert_tariffs([usual_tariff(), *map(own_tariff, PARTIES)])
        await store.upsert_locations([_location(number) for number in range(LOCATIONS)])


async def write_products(connection: Connection, products: list[Terms]) -> None:
    """New products by the service's own statements, in one transaction."""
    sql = queries.load("catalogue")
    versions = queries.load("versions")
    async with connection.transaction():
        version = 1 + await connection.fetchval(versions["lock"], "catalogue")
        await connection.executemany(
            sql["insert_product"], [(t.product_id, "benchmark", version) for t in products]
        )
        await connection.executemany(
            sql["insert_stock"], [(t.product_id, t.stock, *_limit(t)) for t in products]
        )
        await connection.executemany(
            sql["insert_revision"],
            [(t.product_id, 1, terms_to_document(t), "benchmark") for t in products],
        )
        await connection.execute(versions["bump"], "catalogue")


def _limit(terms: Terms) -> tuple[int | None, int]:
    limit = terms.personal_limit
    return (None, 0) if limit is None else (limit.max_purchases, limit.rolling_days)


async def _write_users(connection: Connection, users: int) -> None:
    profile = vehicle_profile_to_document(
        VehicleProfile(
            connector_standards=frozenset({"IEC_62196_T2_COMBO", "IEC_62196_T2"}),
            max_ac_power_w=11_000,
            max_dc_power_w=120_000,
            battery_capacity_wh=64_000,
        )
    )
    await connection.execute(
        """INSERT INTO users (
            user_id, time_zone, currency_code, language, country_code, create_time, update_time
        )
        SELECT 'user-' || lpad(n::text, 7, '0'), $2, $3, 'en', $4, now(), now()
        FROM generate_series(0, $1 - 1) AS n""",
        users,
        ZONE,
        CURRENCY,
        COUNTRY,
    )
    await connection.execute(
        """INSERT INTO vehicles (vehicle_id, user_id, profile, create_time)
        SELECT 'vehicle-' || lpad(n::text, 7, '0'), 'user-' || lpad(n::text, 7, '0'), $2, now()
        FROM generate_series(0, $1 - 1) AS n""",
        users,
        profile,
    )


async def _write_habits(connection: Connection, users: int) -> None:
    """Hand out the distinct habits to all users, inside the database. Each user's latest sessions
    differ in the energy of one, so that nothing found for one user serves another."""
    now = datetime.now(UTC)
    habits = [_habit(number, now) for number in range(_DISTINCT_HABITS)]
    coming = forecasts(default_parameters(), [habit.tendency for habit in habits])
    await connection.execute(
        """CREATE TEMP TABLE habits (number integer, sessions bigint,
            first_session_time timestamptz, last_session_time timestamptz, state bytea,
            forecast bytea, recent bytea);
        CREATE TEMP TABLE habit_places (number integer, country_code text, party_id text,
            location_id text, evse_uid text, weight double precision)"""
    )
    await connection.copy_records_to_table(
        "habits",
        records=[
            (
                number,
                h.tendency.sessions,
                h.tendency.first_session_time,
                h.tendency.last_session_time,
                h.tendency.state.astype("<f8").tobytes(),
                coming[number],
                h.tendency.recent,
            )
            for number, h in enumerate(habits)
        ],
    )
    await connection.copy_records_to_table(
        "habit_places",
        records=[
            (number, p.country_code, p.party_id, p.location_id, p.evse_uid, weight)
            for number, h in enumerate(habits)
            for p, weight in h.places.items()
        ],
    )
    await connection.execute(
        """INSERT INTO tendencies (
            user_id, sessions, first_session_time, last_session_time, state, forecast, recent
        )
        SELECT 'user-' || lpad(n::text, 7, '0'), h.sessions, h.first_session_time,
            h.last_session_time, h.state, h.forecast,
            set_byte(h.recent, 11, n / $2 % 256)
        FROM generate_series(0, $1 - 1) AS n JOIN habits h ON h.number = n % $2""",
        users,
        len(habits),
    )
    await connection.execute(
        """INSERT INTO tendency_places (
            user_id, country_code, party_id, location_id, evse_uid, energy_weight
        )
        SELECT 'user-' || lpad(n::text, 7, '0'), p.country_code, p.party_id, p.location_id,
            p.evse_uid, p.weight
        FROM generate_series(0, $1 - 1) AS n JOIN habit_places p ON p.number = n % $2""",
        users,
        len(habits),
    )
