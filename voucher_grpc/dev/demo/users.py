"""Demo users with clearly different habits, the same ones each time.

A user's day is drawn from the seed, the user and the date alone: loading
the users again later sends the same sessions for the days before, and new ones
for the days since.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from voucher_grpc.domain.places.location import Vehicle, VehicleProfile
from voucher_grpc.files.sessions import session_message
from voucher_grpc.ocpi import DAYS, Day, PlaceKey, VehicleType
from voucher_grpc.v1.tendency_service_pb2 import ChargingSession

HISTORY_DAYS = 183
GENERIC_USERS = 20
_SEED = "voucher-grpc demo 1"
_OSLO, _BERLIN = "Europe/Oslo", "Europe/Berlin"
_WORK_DAYS = frozenset(DAYS[:5])
_WEEKEND = frozenset(DAYS[5:])
_EVERY_DAY = frozenset(DAYS)


@dataclass(frozen=True, slots=True)
class Habit:
    """When, where and how much a user charges.

    `chance` is the probability of a charge on each of `days`, `start_hour` the
    local hour around which it starts (beyond 24: after midnight), `dwell_h` the
    hours plugged in. A place that stands twice is used twice as much. With `every_days`
    a charge falls on each of so many days only, so that none are near each other.
    """

    places: Sequence[PlaceKey]
    chance: float
    start_hour: float
    start_spread_h: float
    energy_kwh: float
    energy_spread_kwh: float
    dwell_h: float
    days: frozenset[Day] = _EVERY_DAY
    every_days: int = 1


@dataclass(frozen=True, slots=True)
class DemoUser:
    """A user with a vehicle and a habit."""

    user_id: str
    habit: Habit
    profile: VehicleProfile
    time_zone: str = _OSLO
    currency_code: str = "NOK"
    country_code: str = "NO"

    @property
    def vehicle(self) -> Vehicle:
        """The user's one vehicle: demo-rare drives demo-rare-vehicle."""
        return Vehicle(f"{self.user_id}-vehicle", self.user_id, self.profile)


_AC_DC = frozenset({"IEC_62196_T2", "IEC_62196_T2_COMBO"})
_CAR = VehicleProfile(VehicleType.CAR, _AC_DC, 11_000, 150_000, 64_000)
_FAST_CAR = VehicleProfile(VehicleType.CAR, _AC_DC, 11_000, 250_000, 90_000)
_SCOOTER = VehicleProfile(VehicleType.SCOOTER, frozenset({"DOMESTIC_F"}), 1_500, 0, 2_200)
_DRONE = VehicleProfile(VehicleType.DRONE, frozenset({"DOMESTIC_F"}), 1_800, 0, 1_200)
_TRUCK = VehicleProfile(
    VehicleType.TRUCK, frozenset({"MCS", "IEC_62196_T2_COMBO"}), 0, 1_000_000, 600_000
)


def _evses(country: str, party: str, location: str, *numbers: int) -> tuple[PlaceKey, ...]:
    return tuple(PlaceKey(country, party, location, f"{location}-{n}") for n in numbers)


_GARAGE = _evses("NO", "OSL", "OSL-NORDBY", 2, 2, 2, 3)
_QUAY = _evses("NO", "OSL", "OSL-BRYGGA", 1, 2, 3, 4)
_FAST = (
    *_evses("NO", "OSL", "OSL-FLYPLASS", 1, 2),
    *_evses("NO", "OSL", "OSL-SENTRALEN", 1),
    *_evses("NO", "FJO", "FJO-VOSS", 1),
)

NAMED_USERS = (
    DemoUser("demo-night-owl", Habit(_GARAGE, 0.7, 23.8, 0.6, 10.0, 3.0, 7.0), _CAR),
    DemoUser(
        "demo-weekender",
        Habit(_evses("NO", "FJO", "FJO-VOSS", 1, 2), 0.75, 13.0, 2.5, 36, 9, 0.6, _WEEKEND),
        _CAR,
    ),
    DemoUser("demo-commuter", Habit(_QUAY, 0.85, 7.6, 0.5, 9.0, 2.5, 8.5, _WORK_DAYS), _CAR),
    DemoUser("demo-fast-charger", Habit(_FAST, 0.45, 14.5, 3.5, 46, 10, 0.5), _FAST_CAR),
    DemoUser(
        "demo-scooter",
        Habit(_evses("NO", "OSL", "OSL-SCOOTERS", 1, 2, 3), 0.9, 17.0, 2.0, 1.3, 0.4, 2.5),
        _SCOOTER,
    ),
    DemoUser(
        "demo-drone",
        Habit(_evses("NO", "OSL", "OSL-DECK", 1, 2, 3, 4), 0.95, 11.0, 3.0, 1.0, 0.2, 0.8),
        _DRONE,
    ),
    DemoUser(
        "demo-trucker",
        Habit(_evses("NO", "NRD", "NRD-TRUCKS", 1), 0.5, 11.5, 3.0, 310, 70, 0.75, _WORK_DAYS),
        _TRUCK,
    ),
    DemoUser(
        "demo-rare",
        Habit(_evses("NO", "OSL", "OSL-TORGET", 1), 1.0, 15.0, 2.0, 18, 4, 0.5, every_days=36),
        _CAR,
    ),
    DemoUser(
        "demo-rhine",
        Habit(_evses("DE", "RHN", "RHN-KOELN", 1, 2), 0.35, 18.0, 2.0, 34, 8, 0.6),
        _CAR,
        _BERLIN,
        "EUR",
        "DE",
    ),
)


def _generic(number: int) -> DemoUser:
    """One of a crowd: any car of any of the habits that many have."""
    rng = random.Random(f"{_SEED}:generic:{number}")  # noqa: S311 - demo data
    night = rng.random() < 0.4
    fast = not night and rng.random() < 0.4
    places = _GARAGE[3:] if night else _FAST if fast else _QUAY
    energy = rng.uniform(25, 45) if fast else rng.uniform(6, 16)
    habit = Habit(
        places=places,
        chance=rng.uniform(0.1, 0.4) if fast else rng.uniform(0.2, 0.8),
        start_hour=rng.uniform(21, 25) if night else rng.uniform(7, 19),
        start_spread_h=rng.uniform(0.5, 2.5),
        energy_kwh=energy,
        energy_spread_kwh=energy / 4,
        dwell_h=8.0 if night else 0.7 if fast else 5.0,
    )
    return DemoUser(f"demo-user-{number:03d}", habit, _CAR)


def demo_users(generic_users: int = GENERIC_USERS) -> list[DemoUser]:
    """The named users and so many of the crowd."""
    return [*NAMED_USERS, *(_generic(number) for number in range(1, generic_users + 1))]


def sessions_of(user: DemoUser, now: datetime) -> Iterator[ChargingSession]:
    """The user's charging of the half year before `now` (aware), oldest first.

    Only charges that have ended by then.
    """
    today = now.astimezone(ZoneInfo(user.time_zone)).date()
    for age in range(HISTORY_DAYS, -1, -1):
        session = _session_on(user, today - timedelta(days=age), now)
        if session is not None:
            yield session


def _session_on(user: DemoUser, day: date, now: datetime) -> ChargingSession | None:
    habit = user.habit
    rng = random.Random(f"{_SEED}:{user.user_id}:{day}")  # noqa: S311 - demo data
    due = DAYS[day.weekday()] in habit.days and day.toordinal() % habit.every_days == 0
    if not due or rng.random() >= habit.chance:
        return None
    minute = round(60 * rng.gauss(habit.start_hour, habit.start_spread_h))
    wall = datetime.combine(day, time(), ZoneInfo(user.time_zone)) + timedelta(minutes=minute)
    start = wall.astimezone(UTC)
    energy = max(habit.energy_kwh / 5, rng.gauss(habit.energy_kwh, habit.energy_spread_kwh))
    dwell = timedelta(minutes=round(60 * habit.dwell_h * rng.uniform(0.8, 1.2)))
    if start + dwell > now:
        return None
    return session_message(
        session_id=f"{user.user_id}-{day:%Y%m%d}",
        user_id=user.user_id,
        place=rng.choice(habit.places),
        time_zone=user.time_zone,
        start=start,
        end=start + dwell,
        energy=round(energy * 1000),
        correction=False,
    )
