"""The one table: what each RPC asks of its caller.

A method that is not in it is not served (the server refuses to start), so that
none is open by having been forgotten.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

from voucher_grpc.access.roles import Scope


class OwnershipCheck(StrEnum):
    """Whose things a request names, and so what is checked beside the scope."""

    NOTHING = "nobody's"
    USER = "the user's of the request"
    PARTY = "the parties' of the request"
    OFFERED = "the user's or the vehicle's of the request; foreign vehicles look like unknown ones"
    OFFER = "the user's in the offer_id, or the registered vehicle's of that user"


class Rule(NamedTuple):
    """A scope, and whose things the RPC touches.

    Each message of a stream counts for the caller's rate, and the stream ends with one beyond
    it; unless it `answers_each`, and so counts them and refuses by itself.
    """

    scope: Scope
    owned: OwnershipCheck = OwnershipCheck.NOTHING
    answers_each: bool = False


_V1 = "voucher_grpc.v1"
RULES: Mapping[str, Rule] = {
    f"/{_V1}.VoucherService/RequestOffers": Rule(Scope.OFFERS_READ, OwnershipCheck.OFFERED),
    f"/{_V1}.VoucherService/BatchRequestOffers": Rule(Scope.OFFERS_READ, OwnershipCheck.OFFERED),
    f"/{_V1}.VoucherService/StreamOffers": Rule(
        Scope.OFFERS_READ, OwnershipCheck.OFFERED, answers_each=True
    ),
    f"/{_V1}.VoucherService/ExplainOffers": Rule(Scope.OFFERS_READ, OwnershipCheck.OFFERED),
    # A captured payment asks for payments.assert too.
    f"/{_V1}.VoucherService/PurchasePass": Rule(Scope.PASSES_BUY, OwnershipCheck.OFFER),
    f"/{_V1}.VoucherService/ConfirmPurchase": Rule(Scope.PAYMENTS_ASSERT, OwnershipCheck.USER),
    f"/{_V1}.VoucherService/CancelPass": Rule(Scope.PASSES_CANCEL, OwnershipCheck.USER),
    f"/{_V1}.VoucherService/GetPass": Rule(Scope.PASSES_READ, OwnershipCheck.USER),
    f"/{_V1}.VoucherService/ListPasses": Rule(Scope.PASSES_READ, OwnershipCheck.USER),
    f"/{_V1}.VoucherService/ListLedgerEntries": Rule(Scope.PASSES_READ, OwnershipCheck.USER),
    f"/{_V1}.CatalogueService/CreateProduct": Rule(Scope.CATALOGUE_WRITE),
    f"/{_V1}.CatalogueService/GetProduct": Rule(Scope.CATALOGUE_READ),
    f"/{_V1}.CatalogueService/ListProducts": Rule(Scope.CATALOGUE_READ),
    f"/{_V1}.CatalogueService/UpdateProduct": Rule(Scope.CATALOGUE_WRITE),
    f"/{_V1}.CatalogueService/RetireProduct": Rule(Scope.CATALOGUE_WRITE),
    f"/{_V1}.LocationService/UpsertLocations": Rule(Scope.PLACES_WRITE, OwnershipCheck.PARTY),
    f"/{_V1}.LocationService/UpsertTariffs": Rule(Scope.PLACES_WRITE, OwnershipCheck.PARTY),
    f"/{_V1}.LocationService/GetLocation": Rule(Scope.PLACES_READ, OwnershipCheck.PARTY),
    f"/{_V1}.LocationService/ListLocations": Rule(Scope.PLACES_READ, OwnershipCheck.PARTY),
    f"/{_V1}.LocationService/GetTariff": Rule(Scope.PLACES_READ, OwnershipCheck.PARTY),
    f"/{_V1}.LocationService/ListTariffs": Rule(Scope.PLACES_READ, OwnershipCheck.PARTY),
    f"/{_V1}.LocationService/PriceCharge": Rule(Scope.PLACES_READ, OwnershipCheck.PARTY),
    f"/{_V1}.LocationService/DeleteLocations": Rule(Scope.PLACES_WRITE, OwnershipCheck.PARTY),
    f"/{_V1}.LocationService/DeleteTariffs": Rule(Scope.PLACES_WRITE, OwnershipCheck.PARTY),
    f"/{_V1}.TendencyService/RecordSessions": Rule(Scope.SESSIONS_WRITE),
    f"/{_V1}.TendencyService/DeleteSessions": Rule(Scope.SESSIONS_WRITE),
    f"/{_V1}.TendencyService/GetTendency": Rule(Scope.TENDENCIES_READ, OwnershipCheck.USER),
    f"/{_V1}.TendencyService/DeclarePreferences": Rule(
        Scope.PREFERENCES_WRITE, OwnershipCheck.USER
    ),
    f"/{_V1}.UserService/UpsertUser": Rule(Scope.USERS_WRITE, OwnershipCheck.USER),
    f"/{_V1}.UserService/GetUser": Rule(Scope.USERS_READ, OwnershipCheck.USER),
    f"/{_V1}.UserService/RegisterVehicle": Rule(Scope.VEHICLES_WRITE, OwnershipCheck.USER),
    f"/{_V1}.UserService/ListVehicles": Rule(Scope.USERS_READ, OwnershipCheck.USER),
    f"/{_V1}.UserService/DeregisterVehicle": Rule(Scope.VEHICLES_WRITE, OwnershipCheck.USER),
    f"/{_V1}.UserService/RegisterToken": Rule(Scope.TOKENS_WRITE, OwnershipCheck.USER),
    f"/{_V1}.UserService/ListTokens": Rule(Scope.USERS_READ, OwnershipCheck.USER),
    f"/{_V1}.UserService/DeleteToken": Rule(Scope.TOKENS_WRITE, OwnershipCheck.USER),
    f"/{_V1}.UserService/ExportUser": Rule(Scope.USERS_EXPORT, OwnershipCheck.USER),
    f"/{_V1}.UserService/EraseUser": Rule(Scope.USERS_ERASE, OwnershipCheck.USER),
    f"/{_V1}.RedemptionService/AuthorizeCharge": Rule(Scope.CHARGES_WRITE, OwnershipCheck.PARTY),
    f"/{_V1}.RedemptionService/CaptureCharge": Rule(Scope.CHARGES_WRITE, OwnershipCheck.PARTY),
    f"/{_V1}.RedemptionService/ReleaseCharge": Rule(Scope.CHARGES_WRITE, OwnershipCheck.PARTY),
    f"/{_V1}.RedemptionService/ReverseCapture": Rule(Scope.CHARGES_WRITE, OwnershipCheck.PARTY),
    f"/{_V1}.RedemptionService/GetCharge": Rule(Scope.CHARGES_READ, OwnershipCheck.USER),
    f"/{_V1}.RedemptionService/ListCharges": Rule(Scope.CHARGES_READ, OwnershipCheck.USER),
    f"/{_V1}.EventService/StreamEvents": Rule(Scope.EVENTS_READ),
    "/grpc.health.v1.Health/Check": Rule(Scope.PUBLIC),
    "/grpc.health.v1.Health/Watch": Rule(Scope.PUBLIC),
    "/grpc.health.v1.Health/List": Rule(Scope.PUBLIC),
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": Rule(Scope.AUTHENTICATED),
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Rule(Scope.AUTHENTICATED),
}
