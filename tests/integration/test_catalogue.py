"""What operators may do with products, and what that does to offers and passes."""

import asyncio
from itertools import chain
from typing import Any

import pytest

from tests.conftest import Service
from tests.integration.requests import full_product
from tests.integration.shop import (
    buy,
    create,
    fetch,
    get_product,
    habit,
    offer_for,
    outcome,
    outcomes,
    set_tariff,
)
from voucher_grpc.client import CallFailed, Client
from voucher_grpc.v1.catalogue_service_pb2 import (
    GetProductRequest,
    ListProductsRequest,
    RetireProductRequest,
    UpdateProductRequest,
)
from voucher_grpc.v1.product_pb2 import Product, ProductState


async def update(client: Client, changed: Product, *, withdraw: bool = False) -> Product:
    request = UpdateProductRequest(product=changed, withdraw_offers=withdraw)
    updated: Product = (await client.call(client.catalogue.UpdateProduct, request)).product
    return updated


async def retire(client: Client, found: Product, *, withdraw: bool = False) -> Product:
    request = RetireProductRequest(
        product_id=found.product_id, etag=found.etag, withdraw_offers=withdraw
    )
    retired: Product = (await client.call(client.catalogue.RetireProduct, request)).product
    return retired


async def list_all(client: Client, page_size: int, **more: Any) -> list[list[str]]:
    """The ids, page by page."""
    pages, token = [], ""
    while True:
        request = ListProductsRequest(page_size=page_size, page_token=token, **more)
        answer = await client.call(client.catalogue.ListProducts, request)
        pages.append([found.product_id for found in answer.products])
        token = answer.next_page_token
        if not token:
            return pages


async def sellable(service: Service, name: str, user: str, **changes: Any) -> Product:
    """A product on sale for which a user gets an offer."""
    await set_tariff(service.client)
    await habit(service.client, user)
    return await create(service.client, name, **changes)


async def test_a_product_is_kept_as_it_was_sent(shared_service: Service, unique: str) -> None:
    """With every optional part, as revision 1, by whoever made it."""
    sent = full_product(unique)
    client = Client(shared_service.target, metadata=[("voucher-actor", "olga")])
    async with client:
        created = await create(client, unique)
        assert (1, "olga", 0) == (created.revision, created.revision_created_by, created.sold)
        assert ProductState.PRODUCT_STATE_ACTIVE == created.state
        sent.etag = created.etag
        updated = await update(client, sent)
    found = await get_product(shared_service.client, unique)
    assert updated == found
    for field in (
        "revision",
        "state",
        "etag",
        "revision_create_time",
        "revision_created_by",
        "sold",
    ):
        found.ClearField(field)
    sent.ClearField("etag")
    assert sent == found


async def test_a_product_exists_once(shared_service: Service, unique: str) -> None:
    """Ten at once: one is created."""
    made = await outcomes(create(shared_service.client, unique) for _ in range(10))
    assert {"OK": 1, "PRODUCT_ALREADY_EXISTS": 9} == made


async def test_a_stale_etag_changes_nothing(shared_service: Service, unique: str) -> None:
    """ABORTED with ETAG_MISMATCH: read again, then repeat."""
    client = shared_service.client
    first = await create(client, unique)
    second = await update(client, _priced(first, 59))
    assert (2, True) == (second.revision, first.etag != second.etag)
    for change in (update(client, _priced(first, 69)), retire(client, first)):
        with pytest.raises(CallFailed) as failed:
            await change
        assert ("ETAG_MISMATCH", "ABORTED") == (failed.value.reason, failed.value.code.name)
    assert second == await get_product(client, unique)


def _priced(found: Product, units: int) -> Product:
    changed = Product()
    changed.CopyFrom(found)
    changed.price.units = units
    return changed


async def test_of_changes_at_once_one_wins(shared_service: Service, unique: str) -> None:
    """The others hear that the product has changed since they read it."""
    first = await create(shared_service.client, unique)
    made = await outcomes(
        update(shared_service.client, _priced(first, 50 + n)) for n in range(1, 9)
    )
    assert {"OK": 1, "ETAG_MISMATCH": 7} == made
    assert 2 == (await get_product(shared_service.client, unique)).revision


async def test_an_update_that_changes_nothing_makes_no_revision(
    shared_service: Service, unique: str
) -> None:
    """It returns the current one."""
    first = await create(shared_service.client, unique)
    assert first == await update(shared_service.client, first)


async def test_older_revisions_can_be_read(shared_service: Service, unique: str) -> None:
    """They never change; one that there is not is not found."""
    client = shared_service.client
    first = await create(client, unique)
    await update(client, _priced(first, 59))
    prices = []
    for revision in (0, 1, 2):
        request = GetProductRequest(product_id=unique, revision=revision)
        found = (await client.call(client.catalogue.GetProduct, request)).product
        prices.append((found.revision, found.price.units))
    assert [(2, 59), (1, 49), (2, 59)] == prices
    third = GetProductRequest(product_id=unique, revision=3)
    assert "PRODUCT_NOT_FOUND" == await outcome(client.call(client.catalogue.GetProduct, third))


async def test_a_product_keeps_its_currency(shared_service: Service, unique: str) -> None:
    """Offers that are out and limits are in it."""
    first = await create(shared_service.client, unique)
    first.price.currency_code = "SEK"
    first.benefit.energy_price.price_per_kwh.currency_code = "SEK"
    with pytest.raises(CallFailed) as failed:
        await update(shared_service.client, first)
    assert {"product.price.currency_code"} == set(failed.value.violations)


async def test_a_retired_product_stays_retired(shared_service: Service, unique: str) -> None:
    """It cannot be updated; retiring it again changes nothing."""
    client = shared_service.client
    retired = await retire(client, await create(client, unique))
    assert ProductState.PRODUCT_STATE_RETIRED == retired.state
    assert "PRODUCT_RETIRED" == await outcome(update(client, _priced(retired, 59)))
    assert retired == await retire(client, retired)


async def test_a_retired_product_is_offered_no_more_but_its_offers_are_honoured(
    fresh_service: Service,
) -> None:
    """Until they expire, unless they are withdrawn, which also a second retirement does."""
    client = fresh_service.client
    created = await sellable(fresh_service, "night", "alice")
    offers = [await offer_for(client, "alice", "night") for _ in range(2)]
    retired = await retire(client, created)
    answer = await client.request_offers(user_id="alice", currency_code="NOK")
    assert [] == list(answer.offers)
    assert "night" == (await buy(client, offers[0])).product_id
    await retire(client, retired, withdraw=True)
    assert "OFFER_WITHDRAWN" == await outcome(buy(client, offers[1]))


async def test_withdrawing_refuses_earlier_revisions_only(fresh_service: Service) -> None:
    """The new revision is offered and bought."""
    client = fresh_service.client
    created = await sellable(fresh_service, "night", "alice")
    old = await offer_for(client, "alice", "night")
    await update(client, _priced(created, 59), withdraw=True)
    new = await offer_for(client, "alice", "night")
    assert "OFFER_WITHDRAWN" == await outcome(buy(client, old))
    bought = await buy(client, new)
    assert (2, 59) == (bought.product_revision, bought.price.units)


async def test_withdrawing_without_a_change_leaves_the_present_revision_on_sale(
    fresh_service: Service,
) -> None:
    """Only offers of earlier revisions are refused."""
    client = fresh_service.client
    created = await sellable(fresh_service, "night", "alice")
    offer = await offer_for(client, "alice", "night")
    await update(client, created, withdraw=True)
    assert "night" == (await buy(client, offer)).product_id


async def test_stock_is_never_set_below_what_is_sold(fresh_service: Service) -> None:
    """At what is sold it is sold out; above it is on sale again."""
    client = fresh_service.client
    await sellable(fresh_service, "night", "alice", stock=3)
    await habit(client, "bob")
    offers = [await offer_for(client, user, "night") for user in ("alice", "bob", "bob")]
    await asyncio.gather(*(buy(client, offer) for offer in offers[:2]))
    found = await get_product(client, "night")
    assert (3, 2) == (found.stock, found.sold)
    found.stock = 1
    with pytest.raises(CallFailed) as failed:
        await update(client, found)
    assert {
        "product.stock": "must be at least 2, which are sold already"
    } == failed.value.violations
    found.stock = 2
    found = await update(client, found)
    assert "SOLD_OUT" == await outcome(buy(client, offers[2]))
    found.ClearField("stock")
    await update(client, found)
    assert "night" == (await buy(client, offers[2])).product_id


async def test_all_pages_together_are_all_products_once(fresh_service: Service) -> None:
    """By product_id; retired ones only if they are asked for."""
    client = fresh_service.client
    names = [f"product-{n:02d}" for n in range(23)]
    for name in reversed(names):
        await create(client, name)
    await retire(client, await get_product(client, names[5]))
    active = names[:5] + names[6:]
    for size in (1, 7, 22, 23, 1000):
        pages = await list_all(client, size)
        assert active == list(chain(*pages))
        assert all(len(page) <= size for page in pages)
        assert pages[-1]
    assert names == list(chain(*await list_all(client, 10, show_retired=True)))


async def test_a_page_token_is_of_its_parameters(fresh_service: Service) -> None:
    """show_retired belongs to them."""
    client = fresh_service.client
    for name in ("a", "b"):
        await create(client, name)
    first = await client.call(client.catalogue.ListProducts, ListProductsRequest(page_size=1))
    other = ListProductsRequest(page_token=first.next_page_token, show_retired=True)
    assert "INVALID_PAGE_TOKEN" == await outcome(client.call(client.catalogue.ListProducts, other))


async def test_each_change_is_recorded_with_who_made_it(fresh_service: Service) -> None:
    """Create, update, withdraw, retire; an update that changes nothing is none."""
    async with Client(fresh_service.target, metadata=[("voucher-actor", "olga")]) as olga:
        created = await create(olga, "night")
        await update(olga, created)
        updated = await update(olga, _priced(created, 59), withdraw=True)
    await retire(fresh_service.client, updated)
    rows = await fetch(
        fresh_service.database_url,
        "SELECT revision, change, changed_by FROM catalogue_changes ORDER BY change_id",
    )
    assert [
        (1, "CREATE", "olga"),
        (2, "UPDATE", "olga"),
        (2, "WITHDRAW_OFFERS", "olga"),
        (2, "RETIRE", "unknown"),
    ] == [tuple(row) for row in rows]
