"""Rules of offers that show in what is kept, signed and said."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from tests.unit.builders import NOW, PLACE, make_session
from voucher_grpc.domain.offer_ids.keys import OfferKey, signing_key
from voucher_grpc.domain.offers.caches import PlaceConditionCache
from voucher_grpc.domain.offers.columns import Size
from voucher_grpc.domain.offers.reason_codes import ReasonCode
from voucher_grpc.domain.offers.reasons import BreakEven, break_even_reason
from voucher_grpc.domain.places.location import Location, VehicleProfile
from voucher_grpc.domain.tendencies.demand import coming_energy
from voucher_grpc.domain.tendencies.tendency import habits, many_habits, rebuild
from voucher_grpc.ocpi import PlaceKey

HOME = Location("NO", "OSL", "home", "Europe/Oslo")


def place(number: int) -> PlaceKey:
    """One of many places."""
    return PlaceKey("NO", "OSL", f"place-{number}")


def test_what_a_place_is_inside_is_found_for_its_location_and_vehicle() -> None:
    """An answer kept for another location or vehicle would offer a pass that is good nowhere."""
    kept, car, van = PlaceConditionCache(), VehicleProfile(), VehicleProfile(max_ac_power_w=11_000)
    covered = np.array([1.0, 0.0])
    kept.keep(car, PLACE, HOME, covered)
    assert kept.get(car, PLACE, HOME) is covered
    assert kept.get(van, PLACE, HOME) is None
    assert kept.get(car, place(1), HOME) is None
    assert kept.get(car, PLACE, Location("NO", "OSL", "home", "Europe/Oslo")) is None
    assert kept.get(car, PLACE, None) is None


@pytest.mark.parametrize(
    ("most_places", "most_numbers", "width", "fit"),
    [(3, 1_000, 2, 3), (100, 8, 2, 4), (100, 9, 2, 4), (100, 4, 1, 4), (5, 5, 0, 5)],
)
def test_places_begin_anew_at_the_bound_of_places_and_of_numbers(
    monkeypatch: pytest.MonkeyPatch, most_places: int, most_numbers: int, width: int, fit: int
) -> None:
    """Memory is what is bounded: a large catalogue leaves room for fewer places."""
    monkeypatch.setattr(PlaceConditionCache, "MAX_PLACES", most_places)
    monkeypatch.setattr(PlaceConditionCache, "MAX_NUMBERS", most_numbers)
    kept, covered = PlaceConditionCache(), np.ones(width)

    def there(count: int) -> list[int]:
        found = (
            (n, kept.get(VehicleProfile(max_ac_power_w=n % 2), place(n), HOME))
            for n in range(count)
        )
        return [n for n, numbers in found if numbers is not None]

    for number in range(fit):
        kept.keep(VehicleProfile(max_ac_power_w=number % 2), place(number), HOME, covered)
    assert list(range(fit)) == there(fit)
    for number in range(fit, 2 * fit):
        kept.keep(VehicleProfile(max_ac_power_w=number % 2), place(number), HOME, covered)
    assert list(range(fit, 2 * fit)) == there(2 * fit)


def test_the_key_whose_time_came_last_signs_wherever_it_stands() -> None:
    """The order in the file does not say which key is the newest; of those alike the last does."""
    old, new = OfferKey(1, b"a" * 32, NOW - timedelta(days=2)), OfferKey(2, b"b" * 32, NOW)
    always, coming = OfferKey(3, b"c" * 32), OfferKey(4, b"d" * 32, NOW + timedelta(days=1))
    assert new is signing_key((new, old, always), NOW)
    assert new is signing_key((old, new, coming), NOW)
    assert old is signing_key((new, old, coming), NOW - timedelta(seconds=1))
    twin = OfferKey(5, b"e" * 32, NOW)
    assert twin is signing_key((new, twin, old), NOW)
    later = OfferKey(6, b"f" * 32, NOW + timedelta(days=2))
    assert coming is signing_key((later, coming), NOW)


def test_a_size_is_never_worse_if_it_gives_as_much_for_as_little() -> None:
    """Both must hold: what gives more may cost more."""
    size = Size(0, 100.0, 100.0, 50.0)
    for given, price, never_worse in [
        *((100.0, 50.0, True), (101.0, 50.0, True), (100.0, 49.0, True)),
        *((99.0, 50.0, False), (100.0, 51.0, False), (101.0, 51.0, False), (99.0, 49.0, False)),
    ]:
        assert never_worse is Size(0, 100.0, given, price).is_never_worse(size)


@pytest.mark.parametrize(("energy_wh", "shown_kwh"), [(312_001, 312.001), (1_000, 1.0)])
def test_a_pass_pays_from_as_many_kwh_as_it_does(energy_wh: int, shown_kwh: float) -> None:
    """In kWh, to the Wh; nothing is said where it never pays."""
    (reason,) = break_even_reason(BreakEven(energy_wh=energy_wh))
    assert (ReasonCode.PAYS_FROM_ENERGY, (shown_kwh,)) == (reason.code, reason.values)
    (reason,) = break_even_reason(BreakEven(sessions=7))
    assert (ReasonCode.PAYS_FROM_SESSIONS, (7.0,)) == (reason.code, reason.values)
    assert () == break_even_reason(None)


def test_the_coming_energy_of_a_steady_user_is_what_it_was() -> None:
    """Without a forecast the mean of the scenarios is the rate, between low and high, in Wh."""
    start = datetime(2026, 1, 5, 8, tzinfo=UTC)
    tendency = rebuild(
        make_session(str(n), start_time=start + timedelta(days=2 * n)) for n in range(150)
    )
    now = start + timedelta(days=300)
    _, many = many_habits([tendency], now)
    expected, low, high = coming_energy(tendency, now)
    assert expected == pytest.approx(many.energy_wh_per_30_days.item(0), rel=1e-6)
    assert low < expected < high


def test_equal_energies_have_no_spread_whatever_floats_do() -> None:
    """The mean of squares may be less than the square of the mean, by a rounding: no root of it."""
    for energy_wh in range(1_001, 1_400):
        tendency = rebuild(
            make_session(str(n), start_time=NOW - timedelta(days=n), energy_wh=energy_wh)
            for n in range(1, 4)
        )
        found = habits(tendency, NOW)
        assert found is not None
        assert 0 <= found.energy_cv_per_session < 1e-6
