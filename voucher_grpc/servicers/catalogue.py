"""CatalogueService: what operators sell."""

from typing import Any

import grpc

from voucher_grpc.currencies import payable_unit_micros
from voucher_grpc.servicers.actor import actor_of
from voucher_grpc.servicers.stale import tell_stale
from voucher_grpc.store.catalogue import CatalogueStore
from voucher_grpc.v1 import catalogue_service_pb2 as pb
from voucher_grpc.v1 import catalogue_service_pb2_grpc
from voucher_grpc.wire.checks import Checks
from voucher_grpc.wire.paging import page_token, read_page_token
from voucher_grpc.wire.products import product_message, terms_from_message

Context = grpc.aio.ServicerContext[Any, Any]
MAX_PAGE_SIZE = 1_000
MAX_REVISION = 2_147_483_647


class CatalogueServicer(catalogue_service_pb2_grpc.CatalogueServiceServicer):
    """Keeps the catalogue."""

    def __init__(self, store: CatalogueStore) -> None:
        self._store = store

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
        await tell_stale(context, seen.stale_since)
        return pb.GetProductResponse(product=product_message(seen.value))

    async def ListProducts(
        self, request: pb.ListProductsRequest, context: Context
    ) -> pb.ListProductsResponse:
        checks = Checks()
        size = checks.number("page_size", request.page_size, 0, MAX_PAGE_SIZE) or 100
        checks.done()
        scope = ("ListProducts", str(request.show_retired))
        last = read_page_token(request.page_token, scope, 1)
        after = last[0] if last else ""
        seen = await self._store.see_page(after, request.show_retired, size + 1)
        products = seen.value
        await tell_stale(context, seen.stale_since)
        more = len(products) > size
        return pb.ListProductsResponse(
            products=[product_message(product) for product in products[:size]],
            next_page_token=page_token(scope, [products[size - 1].product_id]) if more else "",
        )

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
