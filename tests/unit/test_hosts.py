"""A database URL that names several hosts is one URL for each of them."""

import pytest

from voucher_grpc.store.connecting import urls_of_hosts


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        pytest.param(
            "postgresql://u:p@a/db?sslmode=require",
            ["postgresql://u:p@a/db?sslmode=require"],
            id="one host is left as it is",
        ),
        pytest.param("", [""], id="nothing is left as it is"),
        pytest.param(
            "postgresql://u:p%40w@a:1,b:2/db",
            [
                "postgresql://u:p%40w@a:1/db?target_session_attrs=read-write",
                "postgresql://u:p%40w@b:2/db?target_session_attrs=read-write",
            ],
            id="of several the one that may be written to",
        ),
        pytest.param(
            "postgresql://u@a,b/db?target_session_attrs=primary",
            [
                "postgresql://u@a/db?target_session_attrs=primary",
                "postgresql://u@b/db?target_session_attrs=primary",
            ],
            id="unless another is named",
        ),
        pytest.param(
            "postgresql://a,[::1]:5433/db",
            [
                "postgresql://a/db?target_session_attrs=read-write",
                "postgresql://[::1]:5433/db?target_session_attrs=read-write",
            ],
            id="IPv6",
        ),
        pytest.param(
            "postgresql://u:@/db?host=/x/1,/x/2&port=5433",
            [
                "postgresql://u:@/db?target_session_attrs=read-write&host=%2Fx%2F1&port=5433",
                "postgresql://u:@/db?target_session_attrs=read-write&host=%2Fx%2F2&port=5433",
            ],
            id="folders of sockets, one port for all",
        ),
        pytest.param(
            "postgresql:///db?host=a,b&port=1,2",
            [
                "postgresql:///db?target_session_attrs=read-write&host=a&port=1",
                "postgresql:///db?target_session_attrs=read-write&host=b&port=2",
            ],
            id="a port for each",
        ),
    ],
)
def test_each_host_has_its_url(url: str, expected: list[str]) -> None:
    """What is said for all is said for each, and nothing is lost of user and password."""
    assert expected == urls_of_hosts(url)


def test_as_many_ports_as_hosts_are_needed() -> None:
    """Else it is not clear which is whose."""
    with pytest.raises(ValueError, match="as many ports as hosts"):
        urls_of_hosts("postgresql:///db?host=a,b&port=1,2,3")
