import itertools
import random
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drayman.server.task import splitting
from drayman.server.task.plan import SplitRule, Stream, Unit
from drayman.server.task.splitting import Cutter, InputFile, NotEnough, TooMany, UnknownEvents, Window

FILES = st.lists(
    st.builds(
        InputFile,
        st.text("abc", min_size=1, max_size=3),
        size=st.integers(0, 50),
        events=st.integers(1, 40),
    ),
    max_size=25,
)
RULES = st.builds(
    SplitRule,
    n_files=st.integers(0, 30),
    n_events=st.integers(0, 300),
    files_per_job=st.integers(0, 6),
    max_files_per_job=st.integers(1, 8),
    bytes_per_job=st.integers(0, 120),
    events_per_job=st.integers(0, 50),
)


def units_of(windows: Iterable[Window]) -> list[Unit]:
    return [Unit(number, w.size, w.events, w.first_event) for number, w in enumerate(windows, 1)]


def units(count: int, size: int = 0) -> list[Unit]:
    return [Unit(number, size) for number in range(1, count + 1)]


def numbers(groups: Iterable[Sequence[Unit]]) -> list[list[int]]:
    return [[unit.number for unit in group] for group in groups]


# files to records


@given(FILES, RULES)
def test_windows_are_disjoint_complete_and_in_order(files: list[InputFile], rule: SplitRule) -> None:
    named = [replace(file, name=f"{number}.{file.name}") for number, file in enumerate(files)]
    covered: dict[str, list[tuple[int, int]]] = {}
    for window in splitting.cut(named, rule):
        covered.setdefault(window.name, []).append((window.first_event, window.events))
        assert window.events > 0
        if rule.events_per_job:
            assert window.events <= rule.events_per_job
    taken = 0
    for file in named[: len(covered)]:
        next_event = 0
        for first, events in covered[file.name]:
            assert first == next_event
            next_event += events
        taken += next_event
        # whole, unless it is the last one and nEvents ends within it
        assert next_event == file.events or (taken == rule.n_events and file.name == list(covered)[-1])
    assert list(covered) == [file.name for file in named[: len(covered)]]
    wanted = min(len(named), rule.n_files or len(named))
    available = sum(file.events for file in named[:wanted])
    assert taken == min(available, rule.n_events or available)


@given(FILES, RULES, st.lists(st.integers(0, 25), max_size=4))
def test_lists_can_be_cut_chunk_by_chunk(files: list[InputFile], rule: SplitRule, breaks: list[int]) -> None:
    cutter = Cutter(rule)
    made: list[Window] = []
    at = 0
    for end in [*sorted(breaks), len(files)]:
        made += cutter.cut(files[at:end])
        at = max(at, end)
    assert made == list(splitting.cut(files, rule))
    assert not (cutter.full and list(cutter.cut(files)))


def test_a_list_that_grew_is_gone_on_with() -> None:
    rule = SplitRule(n_files=3, n_events=25)
    cutter = Cutter(rule, files=1, events=10, records=1)
    assert [(w.name, w.events) for w in cutter.cut([InputFile("b", events=10), InputFile("c", events=10)])] == [
        ("b", 10),
        ("c", 5),
    ]
    assert cutter.full


def test_a_record_has_all_that_is_known_of_its_file() -> None:
    file = InputFile("a", "s", 7, "md5:x", 4, "p/a/v/a", ("http://x",), "g")
    assert list(splitting.cut([file], SplitRule(events_per_job=3))) == [
        Window("a", "s", 7, "md5:x", 3, "p/a/v/a", ("http://x",), "g", 0),
        Window("a", "s", 7, "md5:x", 1, "p/a/v/a", ("http://x",), "g", 3),
    ]


def test_events_that_nobody_knows_are_those_of_the_rule() -> None:
    rule = SplitRule(events_per_job=4, events_per_file=8)
    assert [(w.first_event, w.events) for w in splitting.cut([InputFile("a"), InputFile("b", events=3)], rule)] == [
        (0, 4),
        (4, 4),
        (0, 3),
    ]


@pytest.mark.parametrize("rule", [SplitRule(events_per_job=4), SplitRule(n_events=4)])
def test_events_that_count_have_to_be_known(rule: SplitRule) -> None:
    with pytest.raises(UnknownEvents, match=r"'a'.*nEventsPerFile"):
        list(splitting.cut([InputFile("a")], rule))
    assert [w.events for w in splitting.cut([InputFile("a")], SplitRule())] == [0]


def test_a_task_has_200_000_records_at_most() -> None:
    limit = splitting.MOST_RECORDS
    one = SplitRule(events_per_job=1)
    assert sum(1 for _ in splitting.cut([InputFile("a", events=limit)], one)) == limit
    with pytest.raises(TooMany, match="200,000"):
        list(splitting.cut([InputFile("a", events=limit), InputFile("b", events=1)], one))
    with pytest.raises(TooMany):
        list(Cutter(SplitRule(), records=limit).cut([InputFile("a")]))
    with pytest.raises(TooMany, match="200,001"):
        list(splitting.pseudo(SplitRule(n_files=limit + 1)))
    assert sum(1 for _ in splitting.pseudo(SplitRule(n_events=limit, events_per_job=1))) == limit


@pytest.mark.parametrize(
    ("rule", "windows"),
    [
        (SplitRule(), [("1", 0, 0)]),
        (SplitRule(n_events=3, events_per_job=1), [("1", 0, 1), ("2", 1, 1), ("3", 2, 1)]),
        (SplitRule(n_events=7, events_per_job=3), [("1", 0, 3), ("2", 3, 3), ("3", 6, 1)]),
        (SplitRule(n_events=7), [("1", 0, 7)]),
        (SplitRule(n_files=2), [("1", 0, 0), ("2", 0, 0)]),
        (SplitRule(n_files=2, events_per_job=5), [("1", 0, 5), ("2", 5, 5)]),
        (SplitRule(events_per_job=5), [("1", 0, 5)]),
    ],
)
def test_without_input_there_are_pseudo_records(rule: SplitRule, windows: list[tuple[str, int, int]]) -> None:
    made = list(splitting.pseudo(rule))
    assert [(w.name, w.first_event, w.events) for w in made] == windows
    assert all(len(group) == 1 for group in splitting.groups(units_of(made), replace(rule, files_per_job=1), last=True))


def test_of_listed_names_one_is_taken_unless_more_are_asked_for() -> None:
    names = ["a", "b", "c"]
    assert [w.name for w in splitting.listed(names, SplitRule())] == ["a"]
    assert [w.name for w in splitting.listed(names, SplitRule(n_files=2))] == ["a", "b"]
    assert [w.name for w in splitting.listed(names, SplitRule(n_files=9))] == names
    assert list(splitting.listed([], SplitRule())) == []


# records to jobs


@given(FILES, RULES)
def test_every_record_is_in_one_job_and_limits_hold(files: list[InputFile], rule: SplitRule) -> None:
    rows = units_of(splitting.cut(files, rule))
    made = list(splitting.groups(rows, rule, last=True))
    assert [unit for group in made for unit in group] == rows
    most = rule.files_per_job or rule.max_files_per_job
    for group in made:
        assert 1 <= len(group) <= most
        if rule.bytes_per_job and len(group) > 1:
            assert sum(unit.size for unit in group) <= rule.bytes_per_job
        if rule.events_per_job and len(group) > 1:
            assert sum(unit.events for unit in group) <= rule.events_per_job
            # events are skipped at the beginning only
            assert not any(unit.first_event for unit in group[1:])
    for group, following in itertools.pairwise(made):
        # no job is smaller than it has to be
        both = [*group, following[0]]
        room = rule.bytes_per_job or splitting.BYTES_WITHOUT_A_RULE
        assert (
            len(group) == most
            or sum(unit.size for unit in both) > room
            or sum(unit.size for unit in group) == room
            or (rule.events_per_job and sum(unit.events for unit in both) > rule.events_per_job)
            or (rule.events_per_job and following[0].first_event)
        )


@given(FILES, RULES, st.integers(8, 30))
def test_jobs_made_chunk_by_chunk_are_those_made_at_once(files: list[InputFile], rule: SplitRule, chunk: int) -> None:
    rows = units_of(splitting.cut(files, rule))
    made: list[tuple[Unit, ...]] = []
    done = 0
    while True:
        part = rows[done : done + chunk]
        last = done + chunk >= len(rows)
        before = done
        for group in splitting.groups(part, rule, last=last):
            made.append(group)
            done += len(group)
        assert done > before or last  # a chunk of the size of a job gets on
        if last:
            break
    assert made == list(splitting.groups(rows, rule, last=True))


@given(FILES, RULES)
def test_without_the_last_only_an_incomplete_job_is_kept_back(files: list[InputFile], rule: SplitRule) -> None:
    rows = units_of(splitting.cut(files, rule))
    everything = list(splitting.groups(rows, rule, last=True))
    some = list(splitting.groups(rows, rule, last=False))
    assert some in (everything, everything[:-1])


@pytest.mark.parametrize(
    ("count", "rule", "sizes"),
    [
        (7, SplitRule(files_per_job=3), [3, 3, 1]),
        (6, SplitRule(files_per_job=3), [3, 3]),
        (0, SplitRule(files_per_job=3), []),
        (450, SplitRule(), [200, 200, 50]),
        (1500, SplitRule(files_per_job=1200), [1000, 500]),
        (5, SplitRule(bytes_per_job=25, max_files_per_job=200), [2, 2, 1]),
        (5, SplitRule(bytes_per_job=5), [1, 1, 1, 1, 1]),
        (5, SplitRule(bytes_per_job=1000, max_files_per_job=4), [4, 1]),
        (5, SplitRule(bytes_per_job=25, files_per_job=3), [2, 2, 1]),
    ],
)
def test_sizes_of_jobs(count: int, rule: SplitRule, sizes: list[int]) -> None:
    assert [len(group) for group in splitting.groups(units(count, size=10), rule, last=True)] == sizes


def test_without_a_rule_a_job_reads_20_gb() -> None:
    rows = units(5, size=9 * 10**9)
    assert numbers(splitting.groups(rows, SplitRule(), last=True)) == [[1, 2], [3, 4], [5]]


def test_small_files_share_a_job_by_events_and_large_ones_are_read_by_several() -> None:
    files = [
        InputFile("a", events=30),
        InputFile("b", events=40),
        InputFile("c", events=250),
        InputFile("d", events=30),
    ]
    rule = SplitRule(events_per_job=100)
    rows = units_of(splitting.cut(files, rule))
    made = list(splitting.groups(rows, rule, last=True))
    assert numbers(made) == [[1, 2], [3], [4], [5, 6]]
    assert [splitting.event_window(group, rule) for group in made] == [
        splitting.EventWindow(1, 0, 70),
        splitting.EventWindow(1, 0, 100),
        splitting.EventWindow(101, 100, 100),
        splitting.EventWindow(201, 200, 80),
    ]


def test_a_window_left_over_from_another_attempt_is_never_in_the_middle_of_a_job() -> None:
    rows = [Unit(1, events=30), Unit(4, events=50, first_event=200), Unit(5, events=30)]
    assert numbers(splitting.groups(rows, SplitRule(events_per_job=100), last=True)) == [[1], [4, 5]]


def test_records_without_a_number_of_events_are_alone() -> None:
    rows = [Unit(1, events=30), Unit(2), Unit(3, events=30)]
    rule = SplitRule(events_per_job=100)
    made = list(splitting.groups(rows, rule, last=True))
    assert numbers(made) == [[1], [2], [3]]
    assert splitting.event_window(made[1], rule) == splitting.EventWindow(1, 0, -1)


def test_without_a_rule_for_events_there_is_no_limit_to_them() -> None:
    assert splitting.event_window([Unit(1, events=30)], SplitRule()).most == -1
    assert splitting.event_window([], SplitRule(n_events=3)) == splitting.EventWindow(1, 0, -1)


# secondary streams


def stream(number: int = 2, **fields: Any) -> Stream:
    base = Stream(number=number, name=f"IN{number}", kind="input")
    return replace(base, **fields)


def draw() -> random.Random:
    return random.Random(1)


def test_a_secondary_stream_gives_its_records_one_after_the_other() -> None:
    two = stream(files_per_job=2)
    assert splitting.secondary([two], {2: 4}, {}, 5, draw=draw()) == {2: (0, 1)}
    assert splitting.secondary([two], {2: 4}, {2: 2}, 5, draw=draw()) == {2: (2, 3)}
    with pytest.raises(NotEnough, match="IN2 has 1 of 5 records left, a job needs 2"):
        splitting.secondary([two], {2: 5}, {2: 4}, 5, draw=draw())


@pytest.mark.parametrize(
    ("fields", "primary", "need"),
    [({"ratio": 3}, 2, 6), ({}, 2, 2), ({"files_per_job": 4, "ratio": 3}, 2, 4)],
)
def test_how_many_records_a_job_gets(fields: dict[str, Any], primary: int, need: int) -> None:
    assert splitting.secondary([stream(**fields)], {2: 99}, {2: 1}, primary, draw=draw()) == {
        2: tuple(range(1, 1 + need))
    }


def test_reusable_records_begin_anew() -> None:
    again = stream(files_per_job=2, reusable=True)
    assert splitting.secondary([again], {2: 3}, {2: 2}, 1, draw=draw()) == {2: (2, 0)}
    assert splitting.secondary([again], {2: 1}, {2: 7}, 1, draw=draw()) == {2: (0, 0)}
    with pytest.raises(NotEnough, match=r"0 of 0 records left, a job needs 2$"):
        splitting.secondary([again], {}, {}, 1, draw=draw())


@given(st.integers(1, 300), st.integers(1, 7), st.integers(1, 9))
def test_random_records_are_each_used_once(count: int, need: int, number: int) -> None:
    some = stream(number, files_per_job=need, random=True)
    given_out: list[int] = []
    while len(given_out) + need <= count:
        given_out += splitting.secondary([some], {number: count}, {number: len(given_out)}, 1, draw=draw())[number]
    assert len(set(given_out)) == len(given_out)
    assert set(given_out) <= set(range(count))
    with pytest.raises(NotEnough):
        splitting.secondary([some], {number: count}, {number: len(given_out)}, 1, draw=draw())


def test_random_records_are_in_no_order() -> None:
    some = stream(files_per_job=200, random=True)
    assert splitting.secondary([some], {2: 200}, {}, 1, draw=draw())[2] != tuple(range(200))


def test_random_reusable_records_are_any() -> None:
    some = stream(files_per_job=3, random=True, reusable=True)
    chance = draw()
    seen = set()
    for _ in range(100):
        chosen = splitting.secondary([some], {2: 5}, {2: 10**6}, 1, draw=chance)[2]
        assert len(set(chosen)) == 3
        seen.add(chosen)
    assert len(seen) > 20
    assert splitting.secondary([replace(some, files_per_job=7)], {2: 1}, {}, 1, draw=chance) == {2: (0,) * 7}


def test_only_secondary_inputs_are_given_out() -> None:
    others = [
        stream(1, primary=True),
        stream(3, kind="output"),
        stream(4, kind="number"),
        stream(5, kind="pseudo_input"),
    ]
    assert splitting.secondary(others, {}, {}, 1, draw=draw()) == {}


def test_a_job_has_1000_files_at_most() -> None:
    with pytest.raises(TooMany, match=r"1,001 files with those of stream IN2.*1,000"):
        splitting.secondary([stream(files_per_job=501)], {2: 9999}, {}, 500, draw=draw())
    splitting.secondary([stream(files_per_job=500)], {2: 9999}, {}, 500, draw=draw())


# numbers


@pytest.mark.parametrize(
    ("num_records", "rule", "inputs", "count"),
    [
        (3, SplitRule(n_files=9), 5, 3),
        (0, SplitRule(n_files=9, n_events=8, events_per_job=1), 5, 9),
        (0, SplitRule(n_events=7, events_per_job=3), 3, 3),
        (0, SplitRule(n_events=7), 3, 10_000),
        (0, SplitRule(), 150_000, 150_000),
    ],
)
def test_how_many_numbers_there_are(num_records: int, rule: SplitRule, inputs: int, count: int) -> None:
    assert splitting.number_count(stream(kind="number", num_records=num_records), rule, inputs) == count


def test_number_streams_are_limited() -> None:
    with pytest.raises(TooMany, match="200,001"):
        splitting.number_count(stream(kind="number", num_records=200_001), SplitRule(), 1)


@given(st.integers(1, 60), st.integers(0, 7), st.integers(0, 1000))
def test_numbers_are_unique_and_begin_after_the_offset(count: int, per_job: int, offset: int) -> None:
    rule = SplitRule(files_per_job=per_job or 1)
    seq = stream(kind="number", offset=offset)
    made = [
        splitting.number(seq, splitting.number_position(group[0].number, rule), count)
        for group in splitting.groups(units(count), rule, last=True)
    ]
    assert made == list(range(offset + 1, offset + 1 + len(made)))


def test_another_attempt_at_the_same_record_gets_the_same_number() -> None:
    assert splitting.number_position(5, SplitRule()) == splitting.number_position(5, SplitRule(bytes_per_job=3)) == 4


def test_numbers_come_to_an_end_unless_they_are_reusable() -> None:
    with pytest.raises(NotEnough, match="3 numbers, a job needs number 4"):
        splitting.number(stream(kind="number"), 3, 3)
    assert splitting.number(stream(kind="number", reusable=True, offset=10), 4, 3) == 12
    with pytest.raises(NotEnough):
        splitting.number(stream(kind="number", reusable=True), 0, 0)


# speed


@pytest.mark.parametrize("rule", [SplitRule(files_per_job=1), SplitRule(), SplitRule(events_per_job=10)])
def test_100_000_records_are_cut_and_put_together_in_no_time(rule: SplitRule) -> None:
    files = [InputFile(f"file.{number:06d}.root", size=10**9, events=10) for number in range(100_000)]
    rows = units(100_000, size=10**9)
    began = time.process_time()
    assert sum(1 for _ in splitting.cut(files, rule)) == 100_000
    assert sum(len(group) for group in splitting.groups(rows, rule, last=True)) == 100_000
    assert time.process_time() - began < 0.5
