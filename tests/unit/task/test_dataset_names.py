import contextlib
import re
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drayman.server.task import dataset_names
from drayman.server.task.dataset_names import (
    Dataset,
    DatasetNameError,
    DispatchProject,
    Place,
    RegistryAsset,
    RegistryLatest,
    RegistryVersion,
)

NAME = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.:-]{0,20}", fullmatch=True)


@pytest.mark.parametrize(
    ("name", "dataset"),
    [
        ("123", DispatchProject(123)),
        (" 7 ", DispatchProject(7)),
        ("dispatch:123", DispatchProject(123)),
        ("p/a/v", RegistryVersion("p", "a", "v")),
        ("p/a/v/", RegistryVersion("p", "a", "v")),
        ("p/a/7.000001", RegistryVersion("p", "a", "7.000001")),
        ("p/a", RegistryLatest("p", "a")),
        ("p/a/", RegistryAsset("p", "a")),
        ("user.ada.test", RegistryAsset("outputs", "user.ada.test")),
        ("user.ada.test/", RegistryAsset("outputs", "user.ada.test")),
        ("scope:user.ada", RegistryAsset("outputs", "scope:user.ada")),
        ("1a", RegistryAsset("outputs", "1a")),
        ("7/8", RegistryLatest("7", "8")),
    ],
)
def test_what_names_mean(name: str, dataset: Dataset) -> None:
    assert dataset_names.parse(name, "outputs") == dataset


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "empty part"),
        ("/", "empty part"),
        ("  ", "empty part"),
        ("a//b", "empty part"),
        ("a//", "empty part"),
        ("/a/b", "empty part"),
        ("a/b/c/d", "names no dataset: give a dispatch project"),
        ("../a", "begin with"),
        ("a/./b", "no part may be"),
        ("a\\b", "backslashes"),
        ("a\nb", "control"),
        ("a\ud800", "control"),
        ("x" * 256, "255 bytes"),
        ("ä" * 128, "255 bytes"),
        ("0", "no dispatch project"),
        ("dispatch:", "no dispatch project"),
        ("dispatch:x", "no dispatch project"),
        ("dispatch:-1", "no dispatch project"),
        ("9" * 19, "no dispatch project"),
    ],
)
def test_names_that_mean_nothing_are_shown(name: str, why: str) -> None:
    with pytest.raises(DatasetNameError, match=re.escape(why)) as raised:
        dataset_names.parse(name, "outputs")
    assert str(raised.value).isascii()
    assert len(str(raised.value)) < 400


EARLY, LATE = datetime(2024, 1, 1), datetime(2025, 1, 1)  # noqa: DTZ001 - compared with each other only


@given(st.text())
def test_whatever_is_named_it_means_something_or_is_refused(name: str) -> None:
    for ask in (
        lambda: dataset_names.parse(name, "outputs"),
        lambda: dataset_names.output_place(name, outputs="outputs", task_id=7, serial=1),
    ):
        with contextlib.suppress(DatasetNameError):
            assert ask()


@pytest.mark.parametrize(
    ("dataset", "place"),
    [
        ("D", Place("outputs", "D", "7.000012", "7")),
        ("D/", Place("outputs", "D", "7.000012", "7")),
        ("p/a", Place("p", "a", "7.000012", "7")),
        ("p/a/", Place("p", "a", "7.000012", "7")),
        ("p/a/v", Place("p", "a", "v.000012", "v")),
    ],
)
def test_where_outputs_go(dataset: str, place: Place) -> None:
    assert dataset_names.output_place(dataset, outputs="outputs", task_id=7, serial=12) == place


@pytest.mark.parametrize("dataset", ["", "12", "dispatch:12", "a/b/c/d", "a//b", "..", "p/a/" + "v" * 250])
def test_places_that_are_none_are_refused(dataset: str) -> None:
    with pytest.raises(DatasetNameError):
        dataset_names.output_place(dataset, outputs="outputs", task_id=7, serial=12)


@given(NAME, st.integers(1, 10**12), st.integers(1, 200_000), st.sampled_from(["{}", "{}/", "p/{}", "p/{}/"]))
def test_outputs_are_inputs_under_the_same_name(name: str, task_id: int, serial: int, form: str) -> None:
    dataset = form.format(name)
    place = dataset_names.output_place(dataset, outputs="outputs", task_id=task_id, serial=serial)
    found = dataset_names.parse(dataset, "outputs")
    assert isinstance(found, RegistryAsset | RegistryLatest)
    assert (found.project, found.asset) == (place.project, place.asset)
    version = dataset_names.parse(f"{place.project}/{place.asset}/{place.assembled}", "outputs")
    assert version == RegistryVersion(place.project, place.asset, place.assembled)
    assert dataset_names.whole({place.version: EARLY, place.assembled: LATE}) == [place.assembled]


@given(st.sets(st.integers(1, 20)), st.integers(1, 10**7), st.integers(1, 10**7))
def test_places_of_different_jobs_differ(tasks: set[int], one: int, other: int) -> None:
    places = {
        dataset_names.output_place("D", outputs="o", task_id=task, serial=serial)
        for task in tasks
        for serial in {one, other}
    }
    assert len({place.version for place in places}) == len(tasks) * len({one, other})


def test_parts_are_left_out_where_the_whole_is_there() -> None:
    versions = ["7", "7.000001", "8.000001", "v", "v.1", "v.000001", "9.000001.000002", "9.000001"]
    found = dataset_names.whole({name: LATE if "." not in name else EARLY for name in versions})
    assert found == ["7", "8.000001", "v", "v.1", "9.000001"]


def test_a_part_that_came_later_is_not_in_the_whole() -> None:
    assert dataset_names.whole({"7": EARLY, "7.000001": EARLY, "7.000002": LATE}) == ["7", "7.000002"]


def test_of_several_wholes_the_last_has_everything() -> None:
    assert dataset_names.assembled_in("7", 1) == "7"
    assert dataset_names.assembled_in("7", 3) == "7-3"
    versions = {"7": EARLY, "7-2": LATE, "7.000001": EARLY, "7.000002": LATE, "8": EARLY, "8-1": LATE, "x-2": LATE}
    assert dataset_names.whole(versions) == ["7-2", "8", "8-1", "x-2"]
    assert dataset_names.whole({"7-10": LATE, "7-9": EARLY, "7.000001": EARLY}) == ["7-10"]


def test_versions_without_parts_are_all_their_own() -> None:
    versions = {"1": EARLY, "1-2": EARLY, "2.1": LATE, "2": LATE}
    assert dataset_names.whole(versions) == list(versions)
