"""Addresses of peers as gRPC writes them."""

import pytest

from voucher_grpc.edge.rpc.peers import address_of


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:127.0.0.1:41429", "127.0.0.1"),
        ("ipv4:203.0.113.7:1", "203.0.113.7"),
        ("ipv6:%5B2001:db8:1:2:3:4:5:6%5D:5000", "2001:db8:1:2::/64"),
        ("ipv6:[2001:db8:1:2:ffff::1]:5000", "2001:db8:1:2::/64"),
        ("ipv6:%5B2001:db8:1:3::1%5D:5000", "2001:db8:1:3::/64"),
        ("ipv6:%5B::ffff:203.0.113.7%5D:5000", "203.0.113.7"),
        ("ipv6:%5Bfe80::1%25eth0%5D:5000", "fe80::/64"),
        ("unix:/run/voucher.sock", "unix"),
        ("unix:", "unix"),
        ("ipv4:nonsense", "ipv4"),
        ("", ""),
    ],
)
def test_the_address_of_a_peer(peer: str, address: str) -> None:
    """Its port never counts, of IPv6 neither does what one customer may choose freely."""
    assert address == address_of(peer)
