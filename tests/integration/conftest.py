"""Whom the servers of these tests trust."""

import pytest

from tests.integration.credentials import Authority, Issuer


@pytest.fixture(scope="session")
def issuer() -> Issuer:
    """Whose tokens they take."""
    return Issuer()


@pytest.fixture(scope="session")
def authority() -> Authority:
    """Whose certificates they take."""
    return Authority()
