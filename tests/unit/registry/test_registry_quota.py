import pytest
from hypothesis import given
from hypothesis import strategies as st

from drayman.server.registry import quota
from drayman.server.registry.quota import Quota

BYTES = st.integers(0, 2**63 - 1)
YEAR = st.integers(1, 9999)
GIGABYTE = 10**9


@given(BYTES, BYTES, YEAR, YEAR)
def test_the_limit_grows_each_year_and_fits_into_64_bits(baseline: int, rate: int, first: int, year: int) -> None:
    value = Quota(baseline, rate, first)
    quota.check_quota(value)
    assert value.limit(year) == min(2**63 - 1, baseline + rate * max(0, year - first))


@given(BYTES, BYTES, BYTES, BYTES, YEAR, YEAR)
def test_what_fits_may_come_and_nothing_else(
    baseline: int, rate: int, used: int, coming: int, first: int, year: int
) -> None:
    value = Quota(baseline, rate, first)
    text = quota.check(value, used, coming, year)
    assert (not text) is (coming == 0 or used + coming <= value.limit(year))


def test_a_refusal_has_all_figures() -> None:
    text = quota.check(Quota(GIGABYTE, 500_000_000, 2024), 1_900_000_000, 100_000_001, 2026)
    for figure in (
        "100,000,001",
        "1,900,000,000",
        "2,000,000,000",
        "100,000,000 are",
        "1,000,000,000",
        "500,000,000",
        "2024",
    ):
        assert figure in text
    assert quota.check(Quota(GIGABYTE, 500_000_000, 2024), 1_900_000_000, 100_000_000, 2026) == ""


def test_links_are_allowed_also_above_the_limit() -> None:
    assert quota.check(Quota(1, 0, 2024), 10, 0, 2024) == ""
    assert "0 are free" in quota.check(Quota(1, 0, 2024), 10, 1, 2024)


@pytest.mark.parametrize(
    "value", [Quota(-1, 0, 2024), Quota(0, -1, 2024), Quota(2**63, 0, 2024), Quota(0, 0, 0), Quota(0, 0, 10000)]
)
def test_a_quota_that_cannot_be_is_refused(value: Quota) -> None:
    with pytest.raises(ValueError, match="got"):
        quota.check_quota(value)
