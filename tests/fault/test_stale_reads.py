"""What may be stale goes on being served while the database is away, and says so."""

from datetime import UTC, datetime
from typing import Any

import grpc

from tests.conftest import serving
from tests.fault.test_database_away import (
    assert_the_store_is_away,
    failure,
    offer_for,
    once_back,
    purchase,
)
from tests.integration.requests import location as place_named
from tests.integration.shop import create, get_product, set_tariff
from tests.proxy import proxied
from voucher_grpc.edge.servicers.stale import STALE_SINCE
from voucher_grpc.v1.catalogue_service_pb2 import (
    GetProductRequest,
    ListProductsRequest,
    RetireProductRequest,
    UpdateProductRequest,
)
from voucher_grpc.v1.catalogue_service_pb2_grpc import CatalogueServiceStub
from voucher_grpc.v1.conditions_pb2 import LocationReference
from voucher_grpc.v1.location_service_pb2 import (
    GetLocationRequest,
    UpsertLocationsRequest,
)
from voucher_grpc.v1.location_service_pb2_grpc import LocationServiceStub
from voucher_grpc.v1.voucher_service_pb2 import Place, RequestOffersRequest
from voucher_grpc.v1.voucher_service_pb2_grpc import VoucherServiceStub


async def answered(method: Any, request: Any) -> tuple[Any, datetime | None]:
    """The answer, and as of when it is; None: as of now."""
    call = method(request)
    answer = await call
    since = dict(await call.initial_metadata()).get(STALE_SINCE)
    return answer, since and datetime.fromisoformat(since)


async def test_the_catalogue_and_known_places_are_answered_and_say_since_when(
    fresh_database: str,
) -> None:
    """As the store answered before it went away, to the last field, or not at all."""
    async with proxied(fresh_database) as proxy, serving(proxy.url) as service:
        client = service.client
        await set_tariff(client)
        for product_id in ("a", "b-c", "bc", "d"):
            await create(client, product_id, default_offer=product_id == "a")
        gone = await create(client, "gone")
        changed = await get_product(client, "d")
        changed.display_name = "D, now in revision 2"
        update = UpdateProductRequest(product=changed)
        await client.call(client.catalogue.UpdateProduct, update)
        retire = RetireProductRequest(product_id="gone", etag=gone.etag)
        await client.call(client.catalogue.RetireProduct, retire)
        places = [place_named("NAMED"), place_named("OTHER")]
        await client.call(client.location.UpsertLocations, UpsertLocationsRequest(locations=places))
        named = LocationReference(country_code="NO", party_id="OSL", location_id="NAMED")
        asked = RequestOffersRequest(
            user_id="alice", currency_code="NOK", place=Place(location=named)
        )
        await client.call(client.voucher.RequestOffers, asked)

        options = [("grpc.enable_retries", 0)]
        async with grpc.aio.insecure_channel(service.target, options) as channel:
            catalogue: Any = CatalogueServiceStub(channel)
            location: Any = LocationServiceStub(channel)
            voucher: Any = VoucherServiceStub(channel)
            get, pages = catalogue.GetProduct, catalogue.ListProducts
            page = await pages(ListProductsRequest(page_size=2))
            also = [
                (get, GetProductRequest(product_id="d")),
                (get, GetProductRequest(product_id="d", revision=2)),
                (pages, ListProductsRequest()),
                (pages, ListProductsRequest(page_size=2)),
                (pages, ListProductsRequest(page_size=2, page_token=page.next_page_token)),
                (location.GetLocation, _place("NAMED")),
            ]
            not_at_all = [
                (get, GetProductRequest(product_id="d", revision=1)),
                (get, GetProductRequest(product_id="gone")),
                (get, GetProductRequest(product_id="unknown")),
                (pages, ListProductsRequest(show_retired=True)),
                (location.GetLocation, _place("OTHER")),
                (voucher.RequestOffers, asked),
                (voucher.PurchasePass, purchase(await offer_for(client, "alice"))),
            ]
            before = [await answered(*call) for call in also]
            assert {None} == {since for _, since in before}
            cut_at = datetime.now(UTC)
            proxy.cut()
            for call, (fresh, _) in zip(also, before, strict=True):
                stale, since = await answered(*call)
                assert fresh == stale
                assert since is not None
                assert since < cut_at
            for method, request in not_at_all:
                assert_the_store_is_away(await failure(method(request)))
            proxy.restore()
            await once_back(lambda: voucher.RequestOffers(asked))
            assert before == [await answered(*call) for call in also]


def _place(name: str) -> GetLocationRequest:
    return GetLocationRequest(country_code="NO", party_id="OSL", location_id=name)
