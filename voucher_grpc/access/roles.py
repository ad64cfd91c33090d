"""What can be allowed (scopes) and to whom (roles).

A role is what the credentials of a kind of caller name; it grants scopes, and for
each of them how far they reach. docs/security.md is generated from `GRANTS`.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple


class Scope(StrEnum):
    """What an RPC asks of its caller."""

    OFFERS_READ = "offers.read"
    PASSES_BUY = "passes.buy"
    PASSES_READ = "passes.read"
    PASSES_CANCEL = "passes.cancel"
    PAYMENTS_ASSERT = "payments.assert"
    CATALOGUE_READ = "catalogue.read"
    CATALOGUE_WRITE = "catalogue.write"
    PLACES_READ = "places.read"
    PLACES_WRITE = "places.write"
    SESSIONS_WRITE = "sessions.write"
    TENDENCIES_READ = "tendencies.read"
    PREFERENCES_WRITE = "preferences.write"
    USERS_READ = "users.read"
    USERS_WRITE = "users.write"
    USERS_EXPORT = "users.export"
    USERS_ERASE = "users.erase"
    VEHICLES_WRITE = "vehicles.write"
    TOKENS_WRITE = "tokens.write"
    EVENTS_READ = "events.read"
    CHARGES_WRITE = "charges.write"
    CHARGES_READ = "charges.read"
    # Every caller whose credentials are good has it, whatever its roles.
    AUTHENTICATED = "authenticated"
    # Whoever reaches the port has it: health has to answer probes.
    PUBLIC = "public"


class Role(StrEnum):
    """The kinds of callers, as the claim `roles` of a token (RFC 9068) or a certificate says."""

    USER = "user"
    GATEWAY = "gateway"
    STATION = "station"
    OPERATOR = "operator"
    PLATFORM = "platform"
    BILLER = "biller"
    CONSUMER = "consumer"
    SUPPORT = "support"


class Within(StrEnum):
    """How far what a role grants reaches."""

    ITSELF = "the user that the credentials are"
    NAMED_USERS = "the users and vehicles that the credentials name"
    NAMED_PARTIES = "the parties (operators) that the credentials name"
    EVERYTHING = "everything"


class Grant(NamedTuple):
    """What a role may do, and within which bounds."""

    scopes: frozenset[Scope]
    users: Within
    parties: Within


def _grant(
    *scopes: Scope, users: Within = Within.EVERYTHING, parties: Within = Within.EVERYTHING
) -> Grant:
    return Grant(frozenset(scopes), users, parties)


GRANTS: Mapping[Role, Grant] = {
    # It cannot assert a payment: its holds are confirmed by a caller that can.
    Role.USER: _grant(
        Scope.OFFERS_READ,
        Scope.PASSES_BUY,
        Scope.PASSES_READ,
        Scope.PASSES_CANCEL,
        Scope.PLACES_READ,
        Scope.TENDENCIES_READ,
        Scope.PREFERENCES_WRITE,
        Scope.USERS_READ,
        Scope.USERS_WRITE,
        Scope.USERS_EXPORT,
        Scope.USERS_ERASE,
        Scope.VEHICLES_WRITE,
        Scope.CHARGES_READ,
        users=Within.ITSELF,
    ),
    Role.GATEWAY: _grant(
        Scope.OFFERS_READ,
        Scope.PASSES_BUY,
        Scope.PASSES_READ,
        Scope.PASSES_CANCEL,
        Scope.PAYMENTS_ASSERT,
        Scope.CATALOGUE_READ,
        Scope.PLACES_READ,
        Scope.TENDENCIES_READ,
        Scope.PREFERENCES_WRITE,
        Scope.USERS_READ,
        Scope.USERS_WRITE,
        Scope.VEHICLES_WRITE,
        Scope.TOKENS_WRITE,
        Scope.CHARGES_READ,
        users=Within.NAMED_USERS,
    ),
    # A station knows its users by what they show it: it may name any of them, at its own places.
    Role.STATION: _grant(
        Scope.PLACES_READ, Scope.PLACES_WRITE, Scope.CHARGES_WRITE, parties=Within.NAMED_PARTIES
    ),
    Role.OPERATOR: _grant(
        Scope.CATALOGUE_READ,
        Scope.CATALOGUE_WRITE,
        Scope.PLACES_READ,
        Scope.PLACES_WRITE,
        parties=Within.NAMED_PARTIES,
    ),
    # Whoever registers a token says whose charges it pays: no user does that alone.
    Role.PLATFORM: _grant(
        Scope.SESSIONS_WRITE, Scope.TENDENCIES_READ, Scope.USERS_READ, Scope.TOKENS_WRITE
    ),
    Role.BILLER: _grant(
        Scope.PASSES_BUY, Scope.PASSES_READ, Scope.PAYMENTS_ASSERT, Scope.CHARGES_READ
    ),
    Role.CONSUMER: _grant(Scope.EVENTS_READ),
    Role.SUPPORT: _grant(
        Scope.OFFERS_READ,
        Scope.PASSES_READ,
        Scope.CATALOGUE_READ,
        Scope.PLACES_READ,
        Scope.TENDENCIES_READ,
        Scope.USERS_READ,
        Scope.USERS_EXPORT,
        Scope.CHARGES_READ,
    ),
}
