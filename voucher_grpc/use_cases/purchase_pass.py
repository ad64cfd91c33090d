"""PurchasePass: who may buy, by an offer_id whose signature is verified.

What follows goes through one batch with confirmations and cancellations (`write_passes`).
"""

from datetime import datetime

from voucher_grpc.domain.offer_ids.signer import OfferSigner, offer_digest
from voucher_grpc.domain.passes.purchase import Purchase, PurchaseRequest
from voucher_grpc.errors import Refusal


def with_verified_offer(
    request: PurchaseRequest, signer: OfferSigner, arrival_time: datetime
) -> Purchase:
    """The purchase that is requested; an offer that is not authentic is left to be judged.

    Raises OFFER_INVALID where the offer_id cannot even be read and so names no user under
    whom the key could be looked up.
    """
    owner, offer = request.user_id, None
    try:
        read = signer.read(request.offer_id)
        owner = read.terms.user_id
        offer = read.terms if read.authentic else None
    except Refusal:
        if not request.user_id:
            raise
    return Purchase(
        user_id=owner,
        request_id=request.request_id,
        offer_digest=offer_digest(request.offer_id),
        offer=offer,
        claimed_user_id=request.user_id,
        vehicle_id=request.vehicle_id,
        payment_reference=request.payment_reference,
        amount=request.amount,
        arrival_time=arrival_time,
        validate_only=request.validate_only,
    )
