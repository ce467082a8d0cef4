"""Token buckets of login attempts: what gets through, what does not, and for how long."""

import ipaddress
import math
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drayman.server.auth import throttle
from drayman.server.auth.throttle import LIMITS, PEER, PROOFS_OF_PEER, USER, USER_AT_PEER, Content, Verdict

#: Names and addresses of few spellings, so that they meet.
USERS = st.sampled_from(["ann", "bob", "\x00", "a:b", ""])
PEERS = st.sampled_from(["192.0.2.1", "192.0.2.2", "2001:db8::1", "unix:"])
WAITS = st.one_of(st.just(0.0), st.floats(0, 15), st.floats(0, 300))
TEXTS = st.text(st.characters(), max_size=20)  # surrogates, too


@dataclass
class World:
    """The buckets of all, by a clock of our own."""

    clock: float = 0.0
    stored: dict[bytes, tuple[float, float]] = field(default_factory=dict)

    def contents(self, username: str | None, peer: str) -> list[Content]:
        found = []
        for bucket in throttle.buckets(username, peer):
            level, at = self.stored.get(bucket.key, (bucket.limit.burst, self.clock))
            found.append(Content(bucket, level, self.clock - at))
        return found

    def attempt(self, username: str | None, peer: str, *, familiar: bool = False) -> Verdict:
        verdict = throttle.judge(self.contents(username, peer), familiar=familiar)
        for bucket, level in verdict.taken:
            self.stored[bucket.key] = level, self.clock
        return verdict

    def give_back(self, verdict: Verdict) -> None:
        for bucket, _ in verdict.taken:
            level, at = self.stored[bucket.key]
            self.stored[bucket.key] = level + 1, at


def is_let_in(verdict: Verdict) -> bool:
    assert (verdict.wait == 0) == (not verdict.empty) == bool(verdict.taken)
    return not verdict.empty


STEPS = st.lists(st.tuples(WAITS, USERS, PEERS, st.integers(1, 150), st.booleans()), max_size=25)


@given(STEPS)
def test_never_more_than_the_burst_and_the_rate_get_through_in_any_window(
    steps: list[tuple[float, str, str, int, bool]],
) -> None:
    world = World()
    passed: dict[bytes, list[float]] = {}
    limits = {}
    for wait, username, peer, count, familiar in steps:
        world.clock += wait
        for _ in range(count):
            for bucket, _ in world.attempt(username, peer, familiar=familiar).taken:
                passed.setdefault(bucket.key, []).append(world.clock)
                limits[bucket.key] = bucket.limit
    for key, times in passed.items():
        limit = limits[key]
        for begin in set(times):
            for end in set(times):
                if begin <= end:
                    inside = sum(begin <= time <= end for time in times)
                    assert inside <= limit.burst + limit.rate * (end - begin) + 1e-6


@given(STEPS, USERS, PEERS)
def test_waits_are_bounded_and_who_waits_gets_in(
    steps: list[tuple[float, str, str, int, bool]], username: str, peer: str
) -> None:
    world = World()
    for wait, claimed, origin, count, familiar in steps:
        world.clock += wait
        for _ in range(count):
            verdict = world.attempt(claimed, origin, familiar=familiar)
            assert 0 <= verdict.wait <= throttle.LONGEST_WAIT == 10
    verdict = world.attempt(username, peer)
    if not is_let_in(verdict):
        before = dict(world.stored)
        world.clock += verdict.wait * 0.99
        assert not is_let_in(world.attempt(username, peer))
        assert world.stored == before  # nothing is taken from any bucket if one refuses
        world.clock += verdict.wait * 0.01
        assert is_let_in(world.attempt(username, peer))


def test_bursts_and_rates() -> None:
    world = World()
    assert [is_let_in(world.attempt("ann", "192.0.2.1")) for _ in range(12)] == [True] * 10 + [False] * 2
    assert world.attempt("ann", "192.0.2.1").wait == pytest.approx(10)
    world.clock += 25
    assert [is_let_in(world.attempt("ann", "192.0.2.1")) for _ in range(3)] == [True, True, False]

    # anybody's attempts from one address
    for number in range(150):
        assert is_let_in(world.attempt(f"user {number}", "192.0.2.3")) == (number < 100)
    assert world.attempt("one more", "192.0.2.3").wait == pytest.approx(1)
    # what cannot be guessed has room of its own
    for number in range(250):
        assert is_let_in(world.attempt(None, "192.0.2.3")) == (number < 200)
    assert world.attempt(None, "192.0.2.3").wait == pytest.approx(0.1)

    # one user from all addresses
    for number in range(80):
        verdict = world.attempt("bob", f"198.51.100.{number}")
        assert is_let_in(verdict) == (number < 50)
    assert (verdict.wait, [bucket.limit for bucket in verdict.empty]) == (pytest.approx(1), [USER])


@given(st.lists(st.tuples(WAITS, st.integers(0, 255), st.integers(0, 20)), max_size=40))
def test_strangers_do_not_slow_a_user_at_a_familiar_peer(attack: list[tuple[float, int, int]]) -> None:
    world = World()
    for wait, host, count in attack:
        world.clock += wait
        for _ in range(count):
            world.attempt("ann", f"198.51.100.{host}")
    for _ in range(10):
        assert is_let_in(world.attempt("ann", "192.0.2.1", familiar=True))
    # guessing is no more likely to succeed from there
    assert not is_let_in(world.attempt("ann", "192.0.2.1", familiar=True))


@given(STEPS, USERS, PEERS, st.booleans(), st.integers(1, 300))
def test_what_succeeds_costs_nothing(
    steps: list[tuple[float, str, str, int, bool]], username: str, peer: str, familiar: bool, logins: int
) -> None:
    world = World()
    for wait, claimed, origin, count, known in steps:
        world.clock += wait
        for _ in range(count):
            world.attempt(claimed, origin, familiar=known)
    verdict = world.attempt(username, peer, familiar=familiar)
    world.clock += verdict.wait
    levels = [content.now for content in world.contents(username, peer)]
    for _ in range(logins):
        verdict = world.attempt(username, peer, familiar=familiar)
        if levels and min(levels) >= 1:
            assert is_let_in(verdict)
        world.give_back(verdict)
    assert [content.now for content in world.contents(username, peer)] == pytest.approx(levels)


@given(st.floats(0, 1000), st.integers(0, 200), st.floats(0, 1000))
def test_tokens_that_come_back_late_never_fill_a_bucket_beyond_its_burst(
    pause: float, count: int, later: float
) -> None:
    world = World()
    verdicts = [world.attempt("ann", "192.0.2.1") for _ in range(count)]
    world.clock += pause
    for verdict in verdicts:
        world.give_back(verdict)
    world.clock += later
    for content in world.contents("ann", "192.0.2.1"):
        assert content.now == content.bucket.limit.burst


def test_a_clock_that_is_set_back_neither_fills_nor_empties() -> None:
    [bucket] = throttle.buckets(None, "192.0.2.1")
    assert Content(bucket, 3, -3600).now == 3
    assert throttle.judge([Content(bucket, 0, -3600)], familiar=False).wait == pytest.approx(0.1)
    assert throttle.judge([Content(bucket, 0, -math.inf)], familiar=False).wait <= throttle.LONGEST_WAIT


def test_a_bucket_is_full_when_it_is_forgotten() -> None:
    for limit in LIMITS:
        bucket = throttle.Bucket(limit, b"")
        assert Content(bucket, 0, throttle.FULL_AFTER).now == limit.burst


def test_a_peer_is_familiar_for_thirty_days() -> None:
    now = datetime(2024, 5, 31, tzinfo=UTC)
    assert throttle.is_familiar(now - timedelta(days=30), now)
    assert not throttle.is_familiar(now - timedelta(days=30, seconds=1), now)
    assert not throttle.is_familiar(None, now)


def keys(username: str | None, peer: str) -> dict[throttle.Limit, bytes]:
    found = throttle.buckets(username, peer)
    assert sorted(bucket.key for bucket in found) == [bucket.key for bucket in found]
    assert {len(bucket.key) for bucket in found} == {32}
    return {bucket.limit: bucket.key for bucket in found}


@given(TEXTS, TEXTS)
def test_any_text_has_buckets_and_no_two_share_them_by_accident(username: str, peer: str) -> None:
    own = keys(username, peer)
    assert own.keys() == {USER_AT_PEER, PEER, USER}
    assert len(set(own.values())) == 3
    assert keys(None, peer).keys() == {PROOFS_OF_PEER}
    assert keys(None, peer)[PROOFS_OF_PEER] not in own.values()
    # however the parts are cut, they are no other parts
    joined = username + peer
    for cut in range(len(joined) + 1):
        if (joined[:cut], joined[cut:]) != (username, peer):
            other = keys(joined[:cut], joined[cut:])[USER_AT_PEER]
            assert other != own[USER_AT_PEER] or fold(joined[:cut]) == fold(username)


def fold(username: str) -> bytes:
    return keys(username, "")[USER]


def test_a_name_has_one_bucket_however_it_is_spelled() -> None:
    assert fold("Ann") == fold("ann") == fold(" ANN ") == fold("\uff41nn")
    assert fold("ann b") == fold("ann  B")
    assert len({fold(name) for name in ("ann", "anna", "an n", "", "x" * 10_000, "x" * 10_001)}) == 6


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_is_one_peer(address: ipaddress.IPv4Address) -> None:
    assert throttle.network(str(address)) == str(address) == throttle.network(f"::ffff:{address}")


@given(st.ip_addresses(v=6), st.integers(0, 2**64 - 1))
def test_an_ipv6_network_of_a_host_is_one_peer(address: ipaddress.IPv6Address, other: int) -> None:
    neighbour = ipaddress.IPv6Address(int(address) >> 64 << 64 | other)
    same = throttle.network(str(address)) == throttle.network(str(neighbour))
    assert same or address.ipv4_mapped != neighbour.ipv4_mapped
    beyond = ipaddress.IPv6Address(int(address) ^ 1 << 64)
    assert throttle.network(str(address)) != throttle.network(str(beyond))


def test_other_peers_are_taken_as_they_are() -> None:
    assert throttle.network("unix:") == "unix:"
    assert throttle.network("fe80::1%eth0") == "fe80::/64"
    assert throttle.network("") == ""
    assert throttle.network("::1") == "::/64"
