"""The three servers that are measured, each the work of a child process.

They say their port first, then answer questions until the pipe is closed.
"""

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import asyncpg
import grpc
import uvloop

from benchmarks.plain import PlainVoucherServicer, open_pool
from benchmarks.processes import Pipe, RunFailed, parent_pid
from benchmarks.world import OFFER_KEY, OFFER_KEY_ID
from voucher_grpc.domain.offer_ids.signer import OfferSigner
from voucher_grpc.domain.offers.choices import EmptyReason, Ranking
from voucher_grpc.domain.offers.determine import Determined
from voucher_grpc.edge.wire.encoding import Encoded
from voucher_grpc.server.config import read_config
from voucher_grpc.server.lifecycle import RunningServer, running
from voucher_grpc.server.process import prepare_process
from voucher_grpc.store.driver import UnsafeDatabase, refuse_unsafe
from voucher_grpc.telemetry.logs import configure_logs
from voucher_grpc.use_cases.request_offers import Answer, RequestOffers
from voucher_grpc.use_cases.write_passes import PassWriter
from voucher_grpc.v1 import voucher_service_pb2 as pb

SERVICE = "voucher_grpc.v1.VoucherService"
_OPTIONS = (("grpc.so_reuseport", 0),)


async def answer_questions(pipe: Pipe, answer: Callable[[Any], Any]) -> None:
    """Answer what comes through the pipe until it is closed."""
    while True:
        try:
            question = await asyncio.to_thread(pipe.recv)
        except EOFError:
            return
        pipe.send(answer(question))


def echo(pipe: Pipe, answers: dict[str, bytes]) -> None:
    """The ceiling: gRPC and nothing else. `answers` are the bytes for each method."""
    uvloop.run(_echo(pipe, answers))


async def _echo(pipe: Pipe, answers: dict[str, bytes]) -> None:
    server = grpc.aio.server(options=_OPTIONS)
    handlers = {method: echo_handler(answer) for method, answer in answers.items()}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    pipe.send(server.add_insecure_port("127.0.0.1:0"))
    await server.start()
    await answer_questions(pipe, lambda _: None)
    await server.stop(1)


def echo_handler(answer: bytes) -> Any:
    """Answers each call with the same bytes."""

    async def handle(_request: bytes, _context: Any) -> bytes:
        return answer

    return grpc.unary_unary_rpc_method_handler(handle)


def service(pipe: Pipe, url: str, settings: dict[str, str] | None = None) -> None:
    """The service as it is run: metrics, health and reflection are on.

    VOUCHER_ variables in the environment count, so that a pace can be tried.
    """
    configure_logs("console", "warning")
    prepare_process()
    uvloop.run(serve(pipe, url, settings or {}, _batches))


async def serve(
    pipe: Pipe,
    url: str,
    settings: dict[str, str],
    answer: Callable[[RunningServer, Any], Any],
) -> None:
    """Serve until the pipe ends, and answer what is asked over it."""
    config = read_config(
        database_url=url,
        listen="127.0.0.1:0",
        metrics_listen="127.0.0.1:0",
        offer_keys=f"{OFFER_KEY_ID}:{OFFER_KEY.hex()}",
        **settings,
    )
    async with running(config) as server:
        pipe.send(server.port)
        await answer_questions(pipe, lambda question: answer(server, question))


def reads(pipe: Pipe, given: tuple[str, dict[str, bytes]]) -> None:
    """The service without its rules: each call is checked and batched, of a RequestOffers the
    user is read, and then it is answered with what is kept. Nothing is valued, judged or
    written: what that costs is the difference to the service."""
    url, answers = given
    kept = Encoded(answers["RequestOffers"])
    nothing = Determined(Ranking((), EmptyReason.NOTHING_FITS), None, 0, "")

    async def answer(
        _self: RequestOffers[Encoded], asked: Sequence[Any], _locations: Any, now: datetime
    ) -> list[Answer[Encoded]]:
        return [Answer(user.knowledge, nothing, now, kept) for user in asked]

    judge, judged = PassWriter.write, list[Any]()

    async def write(self: PassWriter, requests: Sequence[Any]) -> Sequence[Any]:
        if not judged:  # the first one asks only (see `Requests.samples`)
            judged.extend(await judge(self, requests[:1]))
        return judged * len(requests)

    RequestOffers._answers = answer  # type: ignore[assignment,method-assign]
    PassWriter.write = write  # type: ignore[method-assign]
    service(pipe, url)


def _batches(server: RunningServer, batch: str) -> tuple[float, float]:
    """(batches, calls in them) so far of "offers" or "purchases"."""
    count, total = (
        server.metrics.registry.get_sample_value(f"voucher_batch_size_{part}", {"batch": batch})
        for part in ("count", "sum")
    )
    return count or 0.0, total or 0.0


def plain(pipe: Pipe, url: str) -> None:
    """The peer: the same RPCs as a tutorial would write them."""
    uvloop.run(_plain(pipe, url))


async def _plain(pipe: Pipe, url: str) -> None:
    async with open_pool(url) as pool:
        server = grpc.aio.server(options=_OPTIONS)
        servicer = PlainVoucherServicer(pool, OfferSigner({OFFER_KEY_ID: OFFER_KEY}, OFFER_KEY_ID))
        # What generated code does, for the two methods that there are.
        handlers: dict[str, Any] = {
            "RequestOffers": grpc.unary_unary_rpc_method_handler(
                servicer.RequestOffers,
                pb.RequestOffersRequest.FromString,
                pb.RequestOffersResponse.SerializeToString,
            ),
            "PurchasePass": grpc.unary_unary_rpc_method_handler(
                servicer.PurchasePass,
                pb.PurchasePassRequest.FromString,
                pb.PurchasePassResponse.SerializeToString,
            ),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        pipe.send(server.add_insecure_port("127.0.0.1:0"))
        await server.start()
        await answer_questions(pipe, lambda _: None)
        await server.stop(1)


async def database_facts(url: str) -> dict[str, Any]:
    """The version and pids of Postgres; raises RunFailed if it could lose a purchase."""
    connection = await asyncpg.connect(url)
    try:
        await refuse_unsafe(connection)
        return {
            "version": await connection.fetchval("SHOW server_version"),
            "postmaster_pid": parent_pid(await connection.fetchval("SELECT pg_backend_pid()")),
        }
    except UnsafeDatabase as error:
        raise RunFailed(str(error)) from None
    finally:
        await connection.close()
