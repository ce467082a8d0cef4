from hypothesis import given
from hypothesis import strategies as st

from drayman.server.dispatch.allotment import Group, Stock
from drayman.server.dispatch.hindrance import Hindrances, hindrances, summary
from drayman.server.dispatch.lifecycle import ProjectState
from drayman.server.dispatch.standing import Standing
from drayman.server.dispatch.storage_map import ANYWHERE, NOWHERE, OUT_OF_REACH, StorageMap

RSES = {1: "ONE", 2: "TWO", 3: "THREE", 4: "FOUR"}


@st.composite
def storages(draw: st.DrawFn) -> StorageMap:
    condition = {rse_id: draw(st.sampled_from(["usable", "down", "disabled"])) for rse_id in RSES}
    locations = draw(
        st.dictionaries(
            st.integers(2, 7), st.lists(st.sampled_from(list(RSES)), min_size=1, unique=True).map(tuple), max_size=6
        )
    )
    return StorageMap(
        {rse_id: name for rse_id, name in RSES.items() if condition[rse_id] == "usable"},
        locations,
        {"DEFAULT": draw(st.dictionaries(st.sampled_from(list(RSES.values())), st.integers(0, 9)))},
        {rse_id: name for rse_id, name in RSES.items() if condition[rse_id] != "usable"},
        frozenset(rse_id for rse_id in RSES if condition[rse_id] == "down"),
    )


@st.composite
def standings(draw: st.DrawFn) -> Standing:
    group = st.builds(Group, st.integers(0, 3), st.sampled_from([ANYWHERE, NOWHERE, OUT_OF_REACH, 2, 3, 4, 5, 6, 7]))
    groups = draw(st.dictionaries(group, st.builds(Stock, st.integers(0, 50), st.just(1)), max_size=10))
    ready = sum(stock.ready for stock in groups.values())
    done, failed, reserved = (draw(st.integers(0, 20)) for _ in range(3))
    return Standing(
        1,
        "ann",
        draw(st.sampled_from(ProjectState)),
        "{}",
        virtual=False,
        retry_on_timeout=True,
        worker_timeout=None,
        users=frozenset(),
        roles=frozenset(),
        files=ready + done + failed + reserved,
        done=done,
        failed=failed,
        open_list=draw(st.booleans()),
        max_running=draw(st.none() | st.integers(1, 30)),
        groups=groups,
    )


def parts(found: Hindrances) -> list[int]:
    return [
        found.ready,
        found.at_limit,
        found.reserved,
        found.no_replica,
        found.replica_unavailable,
        found.rse_down,
        found.rse_disabled,
    ]


@given(standings(), storages(), st.sampled_from(["", "DEFAULT", "elsewhere"]))
def test_every_handle_that_is_not_over_has_one_cause(standing: Standing, storage: StorageMap, site: str) -> None:
    found = hindrances(standing, storage, site)
    assert min(parts(found)) >= 0
    assert sum(parts(found)) == standing.files - standing.done - standing.failed
    assert found.retrying == sum(stock.ready for group, stock in standing.groups.items() if group.attempts)
    if standing.max_running is not None:
        assert found.ready <= max(standing.max_running - standing.reserved, 0)
    else:
        assert found.at_limit == 0


@given(standings(), storages())
def test_the_names_are_those_of_rses_that_stand_in_the_way(standing: Standing, storage: StorageMap) -> None:
    found = hindrances(standing, storage, "")
    assert found.rses == sorted(set(found.rses))
    assert set(found.rses) <= set(storage.idle.values())
    if not found.rse_down + found.rse_disabled:
        assert found.rses == []
    # a location that none of its RSEs is known of can be named by nobody
    known = any(
        stock.ready and storage.locations.get(group.location_id)
        for group, stock in standing.groups.items()
        if storage.rank("")(group.location_id) is None
    )
    assert bool(found.rses) == known


@given(standings(), storages())
def test_the_summary_names_every_cause_and_its_number(standing: Standing, storage: StorageMap) -> None:
    found = hindrances(standing, storage, "")
    text = summary(standing, found)
    assert text.endswith(".")
    if not standing.hands_out:
        assert ("ready" in text, "Nothing can" in text) == (False, False)
    elif found.ready:
        assert str(found.ready) in text
    elif sum(parts(found)):
        assert all(str(number) in text for number in parts(found) if number)
        assert all(name in text for name in found.rses)
    else:
        assert "open" in text


def test_down_goes_before_disabled_and_reach_before_both() -> None:
    groups = {Group(0, location): Stock(10**location, 1) for location in (2, 3, 4)}
    standing = Standing(
        1, "o", ProjectState.ACTIVE, "{}", False, True, None, frozenset(), frozenset(), 11_100, 0, 0, groups=groups
    )
    locations = {2: (1, 2), 3: (2, 3), 4: (3,)}
    storage = StorageMap({1: "UP"}, locations, {}, {2: "DOWN", 3: "OFF"}, frozenset({2}))
    found = hindrances(standing, storage, "")
    assert (found.ready, found.rse_down, found.rse_disabled) == (100, 1000, 10_000)
    assert found.rses == ["DOWN", "OFF"]
