"""CatalogueService: what operators sell."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import grpc

from voucher_grpc.currencies import payable_unit_micros
from voucher_grpc.domain.catalogue.product import Product
from voucher_grpc.edge.servicers.actor import actor_of
from voucher_grpc.edge.servicers.listing import Lists, Row, row
from voucher_grpc.edge.servicers.stale import send_stale_since
from voucher_grpc.edge.wire.checks import Checks
from voucher_grpc.edge.wire.pages import Page
from voucher_grpc.edge.wire.paging import read_page_token
from voucher_grpc.edge.wire.products import product_message, terms_from_message
from voucher_grpc.store.catalogue import CatalogueStore
from voucher_grpc.store.slices import Slice, Unread
from voucher_grpc.v1 import catalogue_service_pb2 as pb
from voucher_grpc.v1 import catalogue_service_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]
MAX_PAGE_SIZE = 1_000
MAX_REVISION = 2_147_483_647


class CatalogueServicer(catalogue_service_pb2_grpc.CatalogueServiceServicer):
    """Keeps the catalogue."""

    def __init__(self, store: CatalogueStore, lists: Lists) -> None:
        self._store = store
        self._lists = lists

    async def CreateProduct(
        self, request: pb.CreateProductRequest, context: Context
    ) -> pb.CreateProductResponse:
        checks = Checks()
        terms = terms_from_message(checks, "product", request.product, payable_unit_micros)
        checks.done()
        product = await self._store.create(terms, actor_of(context))
        return pb.CreateProductResponse(product=product_message(product))

    async def GetProduct(
        self, request: pb.GetProductRequest, context: Context
    ) -> pb.GetProductResponse:
        checks = Checks()
        product_id = checks.product_id("product_id", request.product_id)
        revision = checks.number("revision", request.revision, 0, MAX_REVISION)
        checks.done()
        seen = await self._store.see(product_id, revision)
        await send_stale_since(context, seen.stale_since)
        return pb.GetProductResponse(product=product_message(seen.value))

    async def ListProducts(
        self, request: pb.ListProductsRequest, context: Context
    ) -> pb.ListProductsResponse:
        checks = Checks()
        size = checks.number("page_size", request.page_size, 0, MAX_PAGE_SIZE) or 100
        checks.done()
        scope = ("ListProducts", str(request.show_retired))
        start = read_page_token(request.page_token, scope, 1) or ("",)
        stale_since: list[datetime] = []

        async def read(last: Sequence[str] | None, limit: int) -> Slice[Unread[Product]]:
            [after] = last or start
            seen = await self._store.see_slice(after, request.show_retired, limit)
            if seen.stale_since is not None:
                stale_since.append(seen.stale_since)
            return seen.value

        page = Page(pb.ListProductsResponse.DESCRIPTOR, "products", scope, size)
        answer = await self._lists.answer(page, read, _product_row, context)
        await send_stale_since(context, min(stale_since, default=None))
        return answer  # type: ignore[return-value]

    async def UpdateProduct(
        self, request: pb.UpdateProductRequest, context: Context
    ) -> pb.UpdateProductResponse:
        checks = Checks()
        terms = terms_from_message(checks, "product", request.product, payable_unit_micros)
        etag = checks.identifier("product.etag", request.product.etag, required=True)
        checks.done()
        product = await self._store.update(terms, etag, request.withdraw_offers, actor_of(context))
        return pb.UpdateProductResponse(product=product_message(product))

    async def RetireProduct(
        self, request: pb.RetireProductRequest, context: Context
    ) -> pb.RetireProductResponse:
        checks = Checks()
        product_id = checks.product_id("product_id", request.product_id)
        etag = checks.identifier("etag", request.etag, required=True)
        checks.done()
        product = await self._store.retire(
            product_id, etag, request.withdraw_offers, actor_of(context)
        )
        return pb.RetireProductResponse(product=product_message(product))


def _product_row(unread: Unread[Product]) -> Row:
    product = unread()
    return row((product.product_id,), product_message(product))
