"""A good request for every method of the service, to be spoiled one field at a time."""

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf.message import Message
from google.type.money_pb2 import Money

from tests.integration.shop import product
from voucher_grpc.edge.wire.messages import timestamp
from voucher_grpc.v1 import catalogue_service_pb2 as catalogue_pb
from voucher_grpc.v1 import conditions_pb2 as conditions_pb
from voucher_grpc.v1 import event_service_pb2 as event_pb
from voucher_grpc.v1 import location_service_pb2 as location_pb
from voucher_grpc.v1 import redemption_service_pb2 as redemption_pb
from voucher_grpc.v1 import tendency_service_pb2 as tendency_pb
from voucher_grpc.v1 import token_pb2 as token_pb
from voucher_grpc.v1 import user_service_pb2 as user_pb
from voucher_grpc.v1 import vehicle_pb2 as vehicle_pb
from voucher_grpc.v1 import voucher_service_pb2 as voucher_pb


@dataclass(frozen=True)
class Method:
    """A method with the class of its requests."""

    path: str
    request: type[Message]
    client_stream: bool
    server_stream: bool

    @property
    def name(self) -> str:
        return self.path.rsplit("/", 1)[1]


def _methods() -> dict[str, Method]:
    found = {}
    modules = (
        catalogue_pb,
        event_pb,
        location_pb,
        redemption_pb,
        tendency_pb,
        user_pb,
        voucher_pb,
    )
    for module in modules:
        for service in module.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                found[method.name] = Method(
                    f"/{service.full_name}/{method.name}",
                    method.input_type._concrete_class,
                    method.client_streaming,
                    method.server_streaming,
                )
    return found


METHODS = _methods()


def full_product(product_id: str = "spoiled") -> Any:
    """A product in which every optional part is set."""
    return product(
        product_id,
        description="For nights",
        stock=10,
        personal_limit={"max_purchases": 2, "rolling_days": 30},
        sale_start_time="2026-01-01T00:00:00Z",
        sale_end_time="2099-01-01T00:00:00Z",
        default_offer=True,
        withdrawal_days=14,
        conditions={
            "any_of": [
                {
                    "start_time": "22:00",
                    "end_time": "06:00",
                    "start_date": "2026-01-01",
                    "end_date": "2099-01-01",
                    "day_of_week": ["MONDAY"],
                    "min_kwh": 1,
                    "max_kwh": 2,
                    "min_current": 1,
                    "max_current": 2,
                    "min_power": 1,
                    "max_power": 2,
                    "min_duration": 1,
                    "max_duration": 2,
                }
            ],
            "parties": ["NO*OSL"],
            "locations": [{"country_code": "NO", "party_id": "OSL", "location_id": "home"}],
            "connector_standards": ["IEC_62196_T2"],
            "power_types": ["DC"],
            "min_connector_power_kw": 1,
            "max_connector_power_kw": 2,
            "vehicle_types": ["CAR"],
        },
    )


def location(location_id: str = "spoiled") -> location_pb.Location:
    """A location with one connector."""
    connector = location_pb.Connector(
        connector_id="1", standard="IEC_62196_T2", max_power_w=11_000, tariff_ids=["spoiled"]
    )
    return location_pb.Location(
        country_code="NO",
        party_id="OSL",
        location_id=location_id,
        name="Spoiled",
        time_zone="Europe/Oslo",
        evses=[location_pb.Evse(evse_uid="1", connectors=[connector])],
    )


def tariff(tariff_id: str = "spoiled") -> location_pb.Tariff:
    """A tariff with one price."""
    component = location_pb.PriceComponent(
        dimension=location_pb.PriceDimension.PRICE_DIMENSION_ENERGY,
        price_micros=4_000_000,
        vat_basis_points=2_500,
        step_size=1,
    )
    return location_pb.Tariff(
        country_code="NO",
        party_id="OSL",
        tariff_id=tariff_id,
        currency_code="NOK",
        elements=[
            location_pb.TariffElement(
                price_components=[component],
                restrictions=conditions_pb.Restrictions(start_time="22:00"),
            )
        ],
        min_price_micros=0,
        max_price_micros=100_000_000,
    )


def session(session_id: str = "spoiled") -> tendency_pb.ChargingSession:
    """A session of three hours, ten days ago."""
    start = datetime.now(UTC) - timedelta(days=10)
    return tendency_pb.ChargingSession(
        session_id=session_id,
        user_id="spoiled",
        location=conditions_pb.LocationReference(
            country_code="NO",
            party_id="OSL",
            location_id="elsewhere",
            evse_uid="1",
            connector_id="1",
        ),
        time_zone="Europe/Oslo",
        start_time=timestamp(start),
        end_time=timestamp(start + timedelta(hours=3)),
        energy_wh=10_000,
    )


def good_request(name: str, offer_id: str = "unreadable", etag: str = "etag") -> Any:
    """A request that the form checks of a method let pass."""
    profile = vehicle_pb.VehicleProfile(
        type=conditions_pb.VehicleType.VEHICLE_TYPE_CAR,
        connector_standards=["IEC_62196_T2"],
        max_ac_power_w=11_000,
        max_dc_power_w=150_000,
        battery_capacity_wh=70_000,
    )
    page: dict[str, Any] = {"page_size": 10}
    key: dict[str, Any] = {"country_code": "NO", "party_id": "OSL"}
    requests: dict[str, Any] = {
        "CreateProduct": lambda: catalogue_pb.CreateProductRequest(product=full_product()),
        "GetProduct": lambda: catalogue_pb.GetProductRequest(product_id="spoiled", revision=1),
        "ListProducts": lambda: catalogue_pb.ListProductsRequest(**page),
        "UpdateProduct": lambda: catalogue_pb.UpdateProductRequest(product=full_product()),
        "RetireProduct": lambda: catalogue_pb.RetireProductRequest(product_id="spoiled", etag=etag),
        "UpsertLocations": lambda: location_pb.UpsertLocationsRequest(locations=[location()]),
        "UpsertTariffs": lambda: location_pb.UpsertTariffsRequest(tariffs=[tariff()]),
        "GetLocation": lambda: location_pb.GetLocationRequest(**key, location_id="spoiled"),
        "ListLocations": lambda: location_pb.ListLocationsRequest(**key, **page),
        "GetTariff": lambda: location_pb.GetTariffRequest(**key, tariff_id="spoiled"),
        "ListTariffs": lambda: location_pb.ListTariffsRequest(**key, **page),
        "PriceCharge": lambda: location_pb.PriceChargeRequest(
            **key,
            location_id="spoiled",
            start_time=timestamp(datetime(2026, 6, 2, 18, tzinfo=UTC)),
            end_time=timestamp(datetime(2026, 6, 2, 20, tzinfo=UTC)),
            energy_wh=20_000,
        ),
        "DeleteLocations": lambda: location_pb.DeleteLocationsRequest(
            **key, location_ids=["spoiled"]
        ),
        "DeleteTariffs": lambda: location_pb.DeleteTariffsRequest(**key, tariff_ids=["spoiled"]),
        "DeleteSessions": lambda: tendency_pb.DeleteSessionsRequest(
            user_id="spoiled", session_ids=["spoiled"]
        ),
        "RecordSessions": lambda: tendency_pb.RecordSessionsRequest(sessions=[session()]),
        "GetTendency": lambda: tendency_pb.GetTendencyRequest(user_id="spoiled"),
        "DeclarePreferences": lambda: tendency_pb.DeclarePreferencesRequest(
            user_id="spoiled",
            preferences=tendency_pb.Preferences(
                profile_type=tendency_pb.ProfileType.PROFILE_TYPE_CHEAP
            ),
        ),
        "StreamEvents": lambda: event_pb.StreamEventsRequest(
            event_types=[event_pb.EventType.EVENT_TYPE_PASS_PURCHASED]
        ),
        "UpsertUser": lambda: user_pb.UpsertUserRequest(
            user=user_pb.User(
                user_id="spoiled",
                time_zone="Europe/Oslo",
                currency_code="NOK",
                language="nb-NO",
                country_code="NO",
            )
        ),
        "GetUser": lambda: user_pb.GetUserRequest(user_id="spoiled"),
        "RegisterVehicle": lambda: user_pb.RegisterVehicleRequest(
            vehicle=vehicle_pb.Vehicle(vehicle_id="spoiled", user_id="spoiled", profile=profile)
        ),
        "ListVehicles": lambda: user_pb.ListVehiclesRequest(user_id="spoiled", **page),
        "DeregisterVehicle": lambda: user_pb.DeregisterVehicleRequest(
            user_id="spoiled", vehicle_id="spoiled"
        ),
        "ExportUser": lambda: user_pb.ExportUserRequest(user_id="spoiled", **page),
        "EraseUser": lambda: user_pb.EraseUserRequest(user_id="spoiled", forfeit=True),
        "RequestOffers": lambda: voucher_pb.RequestOffersRequest(
            user_id="spoiled",
            vehicle=profile,
            place=voucher_pb.Place(area=voucher_pb.Area(country_code="NO")),
            max_offers=5,
            language="nb",
            currency_code="NOK",
        ),
        "BatchRequestOffers": lambda: voucher_pb.BatchRequestOffersRequest(
            requests=[good_request("RequestOffers")] * 2
        ),
        "StreamOffers": lambda: voucher_pb.StreamOffersRequest(
            tag="spoiled", request=good_request("RequestOffers")
        ),
        "ExplainOffers": lambda: voucher_pb.ExplainOffersRequest(
            request=good_request("RequestOffers"), **page
        ),
        "PurchasePass": lambda: voucher_pb.PurchasePassRequest(
            request_id=str(uuid.UUID(int=7)),
            offer_id=offer_id,
            user_id="spoiled",
            vehicle_id="spoiled",
            payment=voucher_pb.Payment(
                captured=voucher_pb.CapturedPayment(
                    reference="spoiled", amount=Money(currency_code="NOK", units=49)
                )
            ),
        ),
        "ConfirmPurchase": lambda: voucher_pb.ConfirmPurchaseRequest(
            user_id="spoiled",
            pass_id=str(uuid.UUID(int=7)),
            payment=voucher_pb.CapturedPayment(
                reference="spoiled", amount=Money(currency_code="NOK", units=49)
            ),
        ),
        "CancelPass": lambda: voucher_pb.CancelPassRequest(
            user_id="spoiled", pass_id=str(uuid.UUID(int=7))
        ),
        "GetPass": lambda: voucher_pb.GetPassRequest(
            user_id="spoiled", pass_id=str(uuid.UUID(int=7))
        ),
        "ListLedgerEntries": lambda: voucher_pb.ListLedgerEntriesRequest(
            user_id="spoiled", pass_id=str(uuid.UUID(int=7)), **page
        ),
        "ListPasses": lambda: voucher_pb.ListPassesRequest(user_id="spoiled", **page),
    }
    user: dict[str, Any] = {"user_id": "spoiled"}
    reference: dict[str, Any] = {**user, "authorization_reference": str(uuid.UUID(int=7))}
    card = token_pb.TokenReference(**key, type=token_pb.TOKEN_TYPE_RFID, uid="spoiled")
    start = datetime(2026, 6, 2, 18, tzinfo=UTC)
    energy = redemption_pb.ChargeDimension(
        type=redemption_pb.CHARGE_DIMENSION_TYPE_ENERGY, volume_micros=20_000_000
    )
    period = redemption_pb.ChargingPeriod(start_time=timestamp(start), dimensions=[energy])
    requests |= {
        "AuthorizeCharge": lambda: redemption_pb.AuthorizeChargeRequest(
            **user, **key, request_id=str(uuid.UUID(int=7)), location_id="spoiled", vehicle=profile
        ),
        "CaptureCharge": lambda: redemption_pb.CaptureChargeRequest(
            **user,
            **key,
            location_id="spoiled",
            session_id="spoiled",
            cdr_id="spoiled",
            start_time=timestamp(start),
            end_time=timestamp(start + timedelta(hours=2)),
            charging_periods=[period],
            vehicle=profile,
            operator_cost=Money(currency_code="NOK", units=49),
        ),
        "ReleaseCharge": lambda: redemption_pb.ReleaseChargeRequest(**reference, **key),
        "ReverseCapture": lambda: redemption_pb.ReverseCaptureRequest(
            **user, **key, cdr_id="spoiled"
        ),
        "RegisterToken": lambda: user_pb.RegisterTokenRequest(
            token=token_pb.Token(reference=card, user_id="spoiled", contract_id="spoiled")
        ),
        "ListTokens": lambda: user_pb.ListTokensRequest(**user, **page),
        "DeleteToken": lambda: user_pb.DeleteTokenRequest(**user, reference=card),
        "GetCharge": lambda: redemption_pb.GetChargeRequest(**reference),
        "ListCharges": lambda: redemption_pb.ListChargesRequest(**user, **page),
    }
    request = requests[name]()
    if name == "UpdateProduct":
        request.product.etag = etag
    return request
