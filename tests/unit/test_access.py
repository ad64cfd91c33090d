"""What credentials reach, how often callers may call, and which key signs offers."""

import multiprocessing
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voucher_grpc.access.principal import ANONYMOUS, ClaimedNames, Credentials, NameSet, Principal
from voucher_grpc.access.rates import WITHOUT_ROLE, Rate, Rates, read_rates
from voucher_grpc.access.roles import GRANTS, Role, Scope, Within
from voucher_grpc.domain.offer_ids.keys import (
    LONGEST_USE,
    OfferKey,
    read_offer_keys,
    rotated,
    signing_key,
    write_offer_keys,
)
from voucher_grpc.errors import Reason, Refusal
from voucher_grpc.server.config import read_config

NOW = datetime(2026, 11, 22, 20, 0, tzinfo=UTC)
NAMES = st.text("ab*-", min_size=1, max_size=4)


def literally(patterns: Sequence[str], name: str) -> bool:
    """What names cover, as docs/security.md says it."""
    for pattern in patterns:
        if pattern.endswith("*"):
            if name[: len(pattern) - 1] == pattern[:-1]:
                return True
        elif name == pattern:
            return True
    return False


@given(st.lists(NAMES, max_size=5), st.lists(NAMES, max_size=5), NAMES)
def test_names_cover_what_they_spell_and_what_begins_so(
    patterns: list[str], others: list[str], name: str
) -> None:
    """And joined names cover what either covers."""
    names = NameSet.of(patterns)
    assert literally(patterns, name) == (name in names)
    assert literally([*patterns, *others], name) == (name in names.joined(NameSet.of(others)))


@given(st.lists(st.sampled_from(Role), max_size=3), NAMES, st.lists(NAMES, max_size=3), NAMES)
def test_roles_together_grant_what_each_grants_and_no_more(
    roles: list[Role], subject: str, named: list[str], user: str
) -> None:
    """A user's own name is taken as it is, also if it looks like the beginning of many."""
    principal = Principal.of(Credentials.TOKEN, subject, roles, ClaimedNames(users=tuple(named)))
    for scope in set(Scope) - {Scope.AUTHENTICATED}:
        holding = [GRANTS[role] for role in roles if scope in GRANTS[role].scopes]
        assert bool(holding) == principal.has(scope)
        if not holding:
            with pytest.raises(Refusal) as caught:
                principal.reach(scope)
            assert Reason.ACCESS_DENIED == caught.value.reason
            continue
        covered = any(
            grant.users is Within.EVERYTHING
            or (grant.users is Within.ITSELF and user == subject)
            or (grant.users is Within.NAMED_USERS and literally(named, user))
            for grant in holding
        )
        assert covered == (user in principal.reach(scope).users)


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


@given(
    st.integers(1, 20),
    st.integers(1, 10),
    st.lists(st.tuples(st.integers(0, 40), st.integers(1, 3)), max_size=40),
)
def test_a_rate_is_a_leaking_bucket(per_s: int, burst: int, steps: list[tuple[int, int]]) -> None:
    """Literally: a bucket of `burst` that leaks `per_s`; what does not fit is refused, uncounted,
    and fits after the time that the refusal says."""
    clock, alice = Clock(), Principal.of(Credentials.TOKEN, "alice", [Role.USER], ClaimedNames())
    rates = Rates.open({Role.USER: Rate(per_s, burst)})
    rates._clock = clock
    level, at_s = 0.0, clock.now_s
    for tenths, calls in steps:
        clock.now_s += tenths / 10
        level, at_s = max(0.0, level - (clock.now_s - at_s) * per_s), clock.now_s
        most = max(burst, calls + 1)
        fits = level + calls <= most + 1e-6
        if fits:
            rates.take(alice, calls)
            level += calls
            continue
        with pytest.raises(Refusal) as caught:
            rates.take(alice, calls)
        assert Reason.RATE_LIMITED == caught.value.reason
        too_much = level + calls - most
        assert caught.value.retry_after_s == pytest.approx(too_much / per_s, abs=1e-5)
    rates.close()


def test_the_most_generous_role_decides_and_one_without_a_limit_has_none() -> None:
    """A gateway that is also a user's app is a gateway."""
    limits = {Role.USER: Rate(0.001, 1), Role.GATEWAY: Rate(0.001, 3)}
    rates = Rates.open(limits)
    both = Principal.of(Credentials.TOKEN, "both", [Role.USER, Role.GATEWAY], ClaimedNames())
    for _ in range(3):
        rates.take(both)
    with pytest.raises(Refusal):
        rates.take(both)
    free = Principal.of(Credentials.TOKEN, "free", [Role.USER, Role.BILLER], ClaimedNames())
    for _ in range(100):
        rates.take(free)
    rates.close()


def test_a_batch_larger_than_the_burst_passes_where_nothing_else_was() -> None:
    """After the call itself was counted; it then takes as long as so many calls."""
    clock = Clock()
    rates = Rates.open({Role.USER: Rate(10, 5)})
    rates._clock = clock
    alice = Principal.of(Credentials.TOKEN, "alice", [Role.USER], ClaimedNames())
    for _ in range(2):
        rates.take(alice)
        rates.take(alice, 99)
        with pytest.raises(Refusal) as caught:
            rates.take(alice)
        assert caught.value.retry_after_s is not None
        clock.now_s += 10
    rates.close()


def test_what_a_call_has_cost_beyond_itself_is_paid_before_the_next_one() -> None:
    """Also where it is more than the burst: it is counted all the same, and its answer goes out."""
    clock = Clock()
    rates = Rates.open({Role.USER: Rate(10, 5)})
    rates._clock = clock
    alice = Principal.of(Credentials.TOKEN, "alice", [Role.USER], ClaimedNames())
    rates.take(alice)
    rates.charge(alice, 3)
    rates.take(alice)  # the fifth
    rates.charge(alice, 0)
    rates.charge(alice, 99)
    with pytest.raises(Refusal) as caught:
        rates.take(alice)
    # 104 calls and the next one, five of them at once.
    assert caught.value.retry_after_s == pytest.approx(10.0)
    clock.now_s += 10.0
    rates.take(alice)
    rates.charge(ANONYMOUS, 1_000)
    rates.take(ANONYMOUS)
    rates.close()


def test_who_has_no_role_here_is_limited_most() -> None:
    """Good credentials of an issuer that has other services too."""
    assert Rate(1, 10) == WITHOUT_ROLE
    rates = Rates.open({})
    stranger = Principal.of(Credentials.TOKEN, "stranger", [], ClaimedNames())
    rates.take(stranger, WITHOUT_ROLE.burst)
    with pytest.raises(Refusal):
        rates.take(stranger, WITHOUT_ROLE.burst)
    for _ in range(100):
        rates.take(ANONYMOUS)
    rates.close()


@pytest.mark.parametrize(
    ("shown", "role"), [(Credentials.CERTIFICATE, Role.USER), (Credentials.TOKEN, Role.GATEWAY)]
)
def test_who_has_the_same_name_by_other_credentials_is_another_caller(
    shown: Credentials, role: Role
) -> None:
    """A user may call itself like a gateway: that must not cost the gateway a call."""
    rates = Rates.open({Role.USER: Rate(0.001, 2), Role.GATEWAY: Rate(0.001, 2)})
    user = Principal.of(Credentials.TOKEN, "gateway-7", [Role.USER], ClaimedNames())
    rates.take(user)
    rates.take(user)
    with pytest.raises(Refusal):
        rates.take(user)
    rates.take(Principal.of(shown, "gateway-7", [role], ClaimedNames()))
    rates.close()


def _take_all(path: Path, calls: int) -> int:
    """How many calls of one process are let through."""
    rates = Rates.open({Role.USER: Rate(0.001, 500)}, path)
    alice, taken = Principal.of(Credentials.TOKEN, "alice", [Role.USER], ClaimedNames()), 0
    for _ in range(calls):
        try:
            rates.take(alice)
            taken += 1
        except Refusal:
            pass
    return taken


def test_workers_count_together(tmp_path: Path) -> None:
    """Four processes with one file let through what one would, to the call."""
    path = tmp_path / "rates"
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        taken = pool.starmap(_take_all, [(path, 400)] * 4)
    assert 500 == sum(taken)


@pytest.mark.parametrize("text", ["user", "user:1", "user:x/1", "user:1/0", "user:1e9/1", "me:1/1"])
def test_limits_that_cannot_be_read_are_refused(text: str) -> None:
    """With the role or the bounds."""
    with pytest.raises(ValueError, match="must"):
        read_rates(text)


def test_offer_keys_are_read_as_they_were_written() -> None:
    """With and without an instant; secrets are not shown."""
    keys = (OfferKey(1, b"a" * 32), OfferKey(7, b"b" * 40, NOW))
    assert keys == read_offer_keys(write_offer_keys(keys))
    assert "6161" not in repr(keys)
    assert "aaaa" not in repr(keys)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("1:zz", "key 1 must be hexadecimal"),
        ("1:abab", "at least 32 bytes"),
        ("256:" + "ab" * 32, "ids 0 to 255"),
        ("1:" + "ab" * 32 + ",1:" + "ab" * 32, "none twice"),
        ("1:" + "ab" * 32 + "@soon", "must be an instant"),
        ("1:" + "ab" * 32 + "@2026-11-22T20:00:00", "must be an instant"),
    ],
)
def test_offer_keys_that_cannot_be_read_are_refused(text: str, told: str) -> None:
    """Without quoting a secret."""
    with pytest.raises(ValueError, match=told) as caught:
        read_offer_keys(text)
    assert "abab" not in str(caught.value)


def test_the_first_key_signs_until_the_time_of_another_has_come() -> None:
    """As before keys had times."""
    first, second = OfferKey(1, b"a" * 32), OfferKey(2, b"b" * 32)
    later = OfferKey(3, b"c" * 32, NOW)
    keys = (first, second, later)
    assert first is signing_key(keys, NOW - timedelta(seconds=1))
    assert later is signing_key(keys, NOW)


@given(st.lists(st.integers(1, 200), min_size=1, max_size=12))
def test_no_rotation_breaks_an_offer_that_is_out_or_a_server_that_reads_late(
    hours: list[int],
) -> None:
    """At each rotation: every server that has read the file since the one before verifies what is
    signed now and whatever was signed within the longest life of an offer."""
    keys = rotated((), NOW, timedelta(0))
    now, signed = NOW, [(NOW, signing_key(keys, NOW).secret)]
    for pause in hours:
        now += timedelta(hours=pause)
        signed.append((now, signing_key(keys, now).secret))
        keys = rotated(keys, now, timedelta(minutes=10))
        known = {key.secret for key in keys}
        assert all(secret in known for at, secret in signed if now - at < timedelta(days=1))
        # Until all servers have the file the key that signs is the old one.
        assert signing_key(keys, now + timedelta(minutes=9)).secret == signed[-1][1]
        assert signing_key(keys, now + timedelta(minutes=10)).secret not in {s for _, s in signed}
        assert len(keys) <= 3 + LONGEST_USE // timedelta(hours=1)
        now += timedelta(minutes=10)
        signed.append((now, signing_key(keys, now).secret))


def test_who_may_change_places_has_a_rate_by_default() -> None:
    """Each change makes all servers read anew."""
    writers = {role for role, grant in GRANTS.items() if Scope.PLACES_WRITE in grant.scopes}
    assert writers
    assert writers <= set(read_config().rate_limits)


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("user:0.001/1", Rate(0.001, 1)),
        ("user:1000000/1000000", Rate(1e6, 1_000_000)),
    ],
)
def test_limits_at_their_bounds_are_read(text: str, rate: Rate) -> None:
    """The message says that both bounds may be used."""
    assert {Role.USER: rate} == read_rates(text)


@pytest.mark.parametrize(
    "text", ["user:0.0009/1", "user:0/1", "user:-0.5/1", "user:1000000.1/1", "user:1/1000001"]
)
def test_limits_just_beyond_their_bounds_are_refused(text: str) -> None:
    """A rate of nothing would divide by zero at the first call."""
    with pytest.raises(ValueError, match=r"0\.001 to 1000000 and 1 to 1000000"):
        read_rates(text)


def test_a_key_with_zeros_in_it_is_the_key_of_all_workers(tmp_path: Path) -> None:
    """A worker that made another would count the same callers anew."""
    first = Rates.open({}, tmp_path / "rates")
    key = bytes([7, *[0] * 15])
    first._numbers[: len(key)] = key
    second = Rates.open({}, tmp_path / "rates")
    assert key == second._key
    for rates in (first, second):
        rates.close()
