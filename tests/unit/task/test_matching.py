import time
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drayman.server.task import matching
from drayman.server.task.matching import Offer
from drayman.server.task.plan import Requirements

NOTHING = Requirements()
ADA = Offer(user="ada")
SITES = st.frozensets(st.sampled_from(["", "A", "B"]), max_size=2)
PLATFORMS = st.sampled_from(["", "x86_64", "x86_64-el9", "aarch64-el9", "x86_64@el9", "x86_64&nvidia"])
LITTLE = st.integers(0, 3)
REQUIREMENTS = st.builds(
    Requirements,
    cores=LITTLE,
    memory_mb=LITTLE,
    disk_mb=LITTLE,
    walltime_seconds=LITTLE,
    platform=PLATFORMS,
    sites=SITES,
    excluded_sites=SITES,
    label=st.sampled_from(["user", "managed"]),
)
OFFERS = st.builds(
    Offer,
    site=st.sampled_from(["", "A", "B"]),
    cores=LITTLE,
    memory_mb=LITTLE,
    disk_mb=LITTLE,
    walltime_seconds=LITTLE,
    platform=PLATFORMS,
    label=st.sampled_from(["", "user", "managed"]),
    task_id=st.sampled_from([0, 0, 1, 2]),
    user=st.sampled_from(["ada", "bob"]),
    anybody=st.booleans(),
)


@pytest.mark.parametrize(
    ("asked", "offered", "hindrance"),
    [
        ({}, {}, ""),
        ({"cores": 2}, {}, "2 cores, offered are 1"),
        ({"cores": 2}, {"cores": 2}, ""),
        ({"cores": 0}, {"cores": 0}, ""),
        ({"memory_mb": 2000}, {}, ""),
        ({"memory_mb": 2000}, {"memory_mb": 2000}, ""),
        ({"memory_mb": 2001}, {"memory_mb": 2000}, "2,001 MB of memory, offered are 2,000"),
        ({"disk_mb": 2001}, {"disk_mb": 2000}, "2,001 MB of scratch space"),
        ({"walltime_seconds": 61}, {"walltime_seconds": 60}, "61 s of time"),
        ({}, {"walltime_seconds": 60}, ""),
        ({"sites": frozenset("AB")}, {}, "site A or B, the worker is at none"),
        ({"sites": frozenset("AB")}, {"site": "B"}, ""),
        ({"sites": frozenset("AB")}, {"site": "C"}, "the worker is at C"),
        ({"excluded_sites": frozenset("A")}, {"site": "A"}, "must not run at A"),
        ({"excluded_sites": frozenset("A")}, {"site": "B"}, ""),
        ({"platform": "x86_64-el9"}, {}, "platform x86_64-el9, offered is none"),
        ({}, {"platform": "x86_64-el9"}, ""),
        ({"label": "managed"}, {}, ""),
        ({"label": "managed"}, {"label": "user"}, "its label is managed, wanted is user"),
        ({}, {"task_id": 7}, ""),
        ({}, {"task_id": 8}, "not of task 8"),
        ({}, {"user": "bob"}, "somebody else's"),
        ({}, {"user": "bob", "anybody": True}, ""),
    ],
)
def test_what_fits(asked: dict[str, Any], offered: dict[str, Any], hindrance: str) -> None:
    requirements = replace(NOTHING, **asked)
    offer = replace(ADA, **offered)
    assert matching.fits(requirements, "ada", 7, offer) is (not hindrance)
    assert hindrance in matching.hindrance(requirements, "ada", 7, offer)


@given(REQUIREMENTS, OFFERS, st.sampled_from([None, 1, 2]))
def test_a_hindrance_is_told_exactly_where_a_job_does_not_fit(
    requirements: Requirements, offer: Offer, task_id: int | None
) -> None:
    fits = matching.fits(requirements, "ada", task_id, offer)
    assert fits is (matching.hindrance(requirements, "ada", task_id, offer) == "")


@given(REQUIREMENTS, OFFERS)
def test_who_offers_more_gets_no_less(requirements: Requirements, offer: Offer) -> None:
    more = replace(offer, cores=offer.cores + 1, memory_mb=0, disk_mb=0, walltime_seconds=0, label="", anybody=True)
    if matching.fits(requirements, "ada", 1, offer):
        assert matching.fits(requirements, "ada", 1, more)


def test_of_others_jobs_nothing_is_told() -> None:
    secret = replace(NOTHING, sites=frozenset({"SECRET"}), cores=99)
    assert matching.hindrance(secret, "bob", 7, ADA) == "it is somebody else's"


@pytest.mark.parametrize(
    ("asked", "offered", "fits"),
    [
        ("x86_64", "x86_64-el9", True),
        ("x86_64-el9", "x86_64", False),
        ("x86_64-el9", "x86_64-el90", False),
        ("x86_64-*-gcc13", "x86_64-el9-gcc13", True),
        ("x86_64-*-gcc13", "x86_64-el9-gcc12", False),
        ("*", "", False),
        ("*", "any", True),
        ("@el9", "x86_64-el9@el9", True),
        ("@el9", "x86_64-el9", False),
        ("x86_64@el9#intel&nvidia", "x86_64-opt@el9#intel-avx2&nvidia-a100", True),
        ("x86_64@el9#intel&nvidia", "x86_64-opt@el9#intel-avx2", False),
        ("&nvidia", "x86_64&nvidia", True),
        ("#x86_64-*-avx2", "#x86_64-intel-avx2", True),
        ("x86_64", "x86_64@el9&nvidia", True),
        ("odd@", "odd@", True),
    ],
)
def test_platforms(asked: str, offered: str, fits: bool) -> None:
    assert matching.platform_fits(asked, offered) is fits


def test_matching_is_cheap() -> None:
    lots = [
        Requirements(memory_mb=number, platform="x86_64", sites=frozenset({f"S{number % 50}"}), label="user")
        for number in range(2000)
    ]
    offers = [Offer(site=f"S{number}", memory_mb=4000, platform="x86_64-el9", anybody=True) for number in range(50)]
    began = time.process_time()
    found = sum(matching.fits(lot, "ada", number, offer) for offer in offers for number, lot in enumerate(lots))
    assert found == 2000
    assert time.process_time() - began < 0.5  # 100,000 pairs
