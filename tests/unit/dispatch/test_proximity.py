import pytest

from drayman.server.dispatch.proximity import distance, nearness
from drayman.server.dispatch.storage_map import ANYWHERE, NOWHERE, StorageMap

MAP = {"CERN": {"EOS": 1, "DEFAULT": 50}, "FNAL": {"DCACHE": 2}, "DEFAULT": {"DEFAULT": 100, "EOS": 7}}


@pytest.mark.parametrize(
    ("site", "rse", "expected"),
    [
        ("CERN", "EOS", 1),
        ("CERN", "DCACHE", 50),
        ("FNAL", "DCACHE", 2),
        ("FNAL", "EOS", None),  # a known site's gaps are not filled from DEFAULT
        ("NOWHERE", "EOS", 7),
        ("NOWHERE", "DCACHE", 100),
        ("", "EOS", 7),
    ],
)
def test_distances(site: str, rse: str, expected: int | None) -> None:
    assert distance(MAP, site, rse) == expected


def test_an_empty_map_knows_nothing() -> None:
    assert distance({}, "CERN", "EOS") is None


def test_unknown_distances_come_last() -> None:
    assert sorted([None, 3, -1, 10**6], key=nearness) == [-1, 3, 10**6, None]


def test_a_location_is_as_near_as_its_nearest_usable_rse() -> None:
    storage = StorageMap({1: "EOS", 2: "DCACHE"}, {5: (1, 2), 6: (2,), 7: (3,), NOWHERE: ()}, MAP)
    rank = storage.rank("CERN")
    assert rank(5) == (False, 1)
    assert rank(6) == (False, 50)
    assert rank(7) is None  # its RSE is down
    assert rank(NOWHERE) is None
    assert rank(ANYWHERE) == (False, 0)
    assert rank(99) is None
