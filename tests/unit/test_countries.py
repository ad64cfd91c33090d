"""Countries by three letters and by two."""

import pytest

from voucher_grpc.countries import alpha_2


@pytest.mark.parametrize(
    ("alpha_3", "expected"),
    [
        *(("NLD", "NL"), ("DEU", "DE"), ("NOR", "NO"), ("KOR", "KR"), ("CHE", "CH"), ("GBR", "GB")),
        *(("ZZZ", None), ("XXX", None), ("", None), ("NL", None), ("UK", None), ("ABC", None)),
    ],
)
def test_a_country_of_three_letters_has_its_two(alpha_3: str, expected: str | None) -> None:
    """Codes that ISO 3166-1 leaves to users are no countries."""
    assert expected == alpha_2(alpha_3)
