"""Who calls, and what it may reach."""

from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Self

from voucher_grpc.access.roles import GRANTS, Role, Scope, Within
from voucher_grpc.errors import Reason, Refusal

ANY = "*"


@dataclass(frozen=True, slots=True)
class NameSet:
    """A set of names: each in full, or the beginning of many as `fleet-7-*`; `*` is all."""

    exact: frozenset[str]
    prefixes: tuple[str, ...]

    @classmethod
    def of(cls, patterns: Iterable[str]) -> Self:
        """From names and beginnings that end in `*`."""
        patterns = tuple(patterns)
        return cls(
            frozenset(p for p in patterns if not p.endswith(ANY)),
            tuple(sorted({p[:-1] for p in patterns if p.endswith(ANY)})),
        )

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and (name in self.exact or name.startswith(self.prefixes))

    @property
    def all(self) -> bool:
        """Whether no name is left out."""
        return "" in self.prefixes

    def joined(self, other: "NameSet") -> "NameSet":
        """What either of them has."""
        prefixes = tuple(sorted({*self.prefixes, *other.prefixes}))
        return NameSet(self.exact | other.exact, prefixes)


NO_NAMES = NameSet.of(())
ALL_NAMES = NameSet.of((ANY,))


class Reach(NamedTuple):
    """How far a scope reaches. Parties are named as `NO*OSL`."""

    users: NameSet
    vehicles: NameSet
    parties: NameSet

    def joined(self, other: "Reach") -> "Reach":
        """What either of them reaches."""
        return Reach(*(mine.joined(theirs) for mine, theirs in zip(self, other, strict=True)))


EVERYTHING = Reach(ALL_NAMES, ALL_NAMES, ALL_NAMES)


def party_name(country_code: str, party_id: str) -> str:
    """A party as credentials name it, like OCPI's country_code*party_id."""
    return f"{country_code}*{party_id}"


class ClaimedNames(NamedTuple):
    """What credentials name: users and vehicles of a gateway, parties of an operator."""

    users: tuple[str, ...] = ()
    vehicles: tuple[str, ...] = ()
    parties: tuple[str, ...] = ()


class Credentials(StrEnum):
    """What callers show. Whoever issues one kind does not know the names of the other."""

    TOKEN = "token"  # noqa: S105
    CERTIFICATE = "certificate"


class Principal:
    """A caller that is known: its name, its roles, and what each scope reaches.

    The name goes into logs and, as the actor of a change, into the catalogue. Rates and
    shares are counted by the `key`: others may have the same name.
    """

    __slots__ = ("_reach", "key", "name", "roles")

    def __init__(
        self,
        name: str,
        roles: Sequence[Role],
        reach: dict[Scope, Reach],
        key: tuple[str, ...],
    ) -> None:
        self.name = name
        self.roles = roles
        self.key = key
        self._reach = {**reach, Scope.AUTHENTICATED: EVERYTHING}

    @classmethod
    def of(cls, shown: Credentials, name: str, roles: Iterable[Role], named: ClaimedNames) -> Self:
        """What the roles together grant to credentials that name these."""
        held = tuple(sorted(set(roles)))
        reach: dict[Scope, Reach] = {}
        for role in held:
            grant = GRANTS[role]
            one = Reach(
                _within(grant.users, (name,), named.users),
                _within(grant.users, (), named.vehicles),
                _within(grant.parties, (), named.parties),
            )
            for scope in grant.scopes:
                reach[scope] = reach[scope].joined(one) if scope in reach else one
        return cls(name, held, reach, (shown, name, *held))

    def reach(self, scope: Scope) -> Reach:
        """How far a scope reaches. Raises ACCESS_DENIED if it is not granted."""
        reach = self._reach.get(scope)
        if reach is None:
            raise Refusal(
                Reason.ACCESS_DENIED, f"the credentials do not grant {scope}", scope=scope
            )
        return reach

    def has(self, scope: Scope) -> bool:
        """Whether a scope is granted, however far."""
        return scope in self._reach


def _within(within: Within, itself: Sequence[str], named: Sequence[str]) -> NameSet:
    if within is Within.EVERYTHING:
        return ALL_NAMES
    if within is Within.ITSELF:
        return NameSet(frozenset(itself), ())  # in full: a user may be called `a*`
    return NameSet.of(named)


# Where no credentials are configured whoever calls may do everything (and the server keeps
# to the loopback address).
ANONYMOUS = Principal("anybody", (), dict.fromkeys(Scope, EVERYTHING), ())

_caller: ContextVar[Principal] = ContextVar("caller", default=ANONYMOUS)
set_caller = _caller.set
caller = _caller.get


def not_covered(field: str, what: str) -> Refusal:
    """The refusal of somebody else's thing; the same whether that exists or not."""
    return Refusal(
        Reason.ACCESS_DENIED, f"{field}: the credentials do not cover this {what}", field=field
    )
