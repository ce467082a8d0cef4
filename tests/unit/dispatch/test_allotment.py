from hypothesis import given
from hypothesis import strategies as st

from drayman.server.dispatch.allotment import Group, Stock, preference
from drayman.server.platform.shares import allot

GROUP = st.builds(Group, st.integers(0, 3), st.integers(0, 5))
STOCKS = st.dictionaries(GROUP, st.builds(Stock, st.integers(0, 6), st.integers(1, 99)), max_size=8)
WANTS = st.lists(st.integers(1, 5), max_size=12)


def rank(location: int) -> tuple[bool, int] | None:
    """Location 0 is out of reach, 1 of unknown distance, the others as far as their number."""
    return {0: None, 1: (True, 0)}.get(location, (False, location))


@given(STOCKS)
def test_fewest_attempts_first_then_the_nearest_then_the_oldest(groups: dict[Group, Stock]) -> None:
    order = preference(groups, rank)
    keys = [(group.attempts, rank(group.location_id), groups[group].low) for group in order]
    assert keys == sorted(keys)
    assert set(order) == {group for group, stock in groups.items() if stock.ready and group.location_id}


@given(STOCKS, WANTS)
def test_nobody_gets_more_than_asked_and_no_group_gives_more_than_it_has(
    groups: dict[Group, Stock], wants: list[int]
) -> None:
    order = preference(groups, rank)
    left = {group: stock.ready for group, stock in groups.items()}
    allotted = allot(wants, order, left)
    given_of = dict.fromkeys(groups, 0)
    for want, share in zip(wants, allotted, strict=False):
        assert 0 < sum(number for _, number in share) <= want
        for group, number in share:
            given_of[group] += number
    for group, stock in groups.items():
        assert given_of[group] + left[group] == stock.ready


@given(STOCKS, WANTS)
def test_nothing_is_left_while_somebody_wants_it(groups: dict[Group, Stock], wants: list[int]) -> None:
    order = preference(groups, rank)
    left = {group: stock.ready for group, stock in groups.items()}
    total = sum(sum(number for _, number in share) for share in allot(wants, order, left))
    assert total == min(sum(wants), sum(groups[group].ready for group in order))


@given(STOCKS, WANTS)
def test_who_came_first_gets_the_better_group(groups: dict[Group, Stock], wants: list[int]) -> None:
    order = preference(groups, rank)
    allotted = allot(wants, order, {group: stock.ready for group, stock in groups.items()})
    places = [order.index(group) for share in allotted for group, _ in share]
    assert places == sorted(places)
