from __future__ import annotations

import itertools
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drayman.server.registry.addresses import FileAddress, VersionAddress
from drayman.server.registry.entries import Entry
from drayman.server.registry.linking import Dedup, link_to, local_links
from drayman.server.registry.rerouting import Doomed, LinkEntry, Reroute, plan


def at(version: str, path: str = "f") -> FileAddress:
    return FileAddress("p", "a", version, path)


def link(address: FileAddress, target: FileAddress, ancestor: FileAddress | None = None) -> LinkEntry:
    return LinkEntry(address, 5, target, ancestor)


def doomed(*versions: str) -> list[Doomed]:
    return [Doomed("p", "a", version) for version in versions]


def copied(address: FileAddress, source: FileAddress, content: FileAddress | None = None) -> Reroute:
    return Reroute(address, None, None, copy=True, source=source, usage=5, content=content or source)


def moved(
    address: FileAddress, target: FileAddress, ancestor: FileAddress | None, source: FileAddress, content: FileAddress
) -> Reroute:
    return Reroute(address, target, ancestor, copy=False, source=source, usage=0, content=content)


CHAIN = [link(at("v2"), at("v1")), link(at("v3"), at("v2"), at("v1")), link(at("v4"), at("v3"), at("v1"))]


class TestTheTable:
    def test_target_stays_and_there_is_no_ancestor(self) -> None:
        assert plan(doomed("other"), [link(at("v2"), at("v1"))]) == []

    def test_target_and_ancestor_stay(self) -> None:
        assert plan(doomed("v4"), CHAIN) == []

    def test_target_goes_and_there_is_no_ancestor(self) -> None:
        assert plan(doomed("v1"), [link(at("v2"), at("v1"))]) == [copied(at("v2"), at("v1"))]

    def test_target_goes_and_the_next_one_holds_the_content(self) -> None:
        assert plan(doomed("v2"), CHAIN) == [moved(at("v3"), at("v1"), None, at("v2"), at("v1"))]

    def test_target_goes_and_the_next_one_is_a_link_to_an_ancestor_that_stays(self) -> None:
        assert plan(doomed("v3"), CHAIN) == [moved(at("v4"), at("v2"), at("v1"), at("v3"), at("v1"))]

    def test_two_in_a_row_go(self) -> None:
        assert plan(doomed("v2", "v3"), CHAIN) == [moved(at("v4"), at("v1"), None, at("v3"), at("v1"))]

    def test_target_and_ancestor_go_and_one_between_stays(self) -> None:
        assert plan(doomed("v1", "v3"), CHAIN) == [
            copied(at("v2"), at("v1")),
            moved(at("v4"), at("v2"), None, at("v3"), at("v1")),
        ]

    def test_target_and_ancestor_go_and_two_between_stay(self) -> None:
        chain = [*CHAIN, link(at("v5"), at("v4"), at("v1"))]
        assert plan(doomed("v1", "v4"), chain) == [
            copied(at("v2"), at("v1")),
            moved(at("v3"), at("v2"), None, at("v1"), at("v1")),
            moved(at("v5"), at("v3"), at("v2"), at("v4"), at("v1")),
        ]

    def test_all_before_go(self) -> None:
        assert plan(doomed("v1", "v2", "v3"), CHAIN) == [copied(at("v4"), at("v3"), at("v1"))]

    def test_target_stays_and_the_ancestor_goes(self) -> None:
        assert plan(doomed("v1"), CHAIN) == [
            copied(at("v2"), at("v1")),
            moved(at("v3"), at("v2"), None, at("v1"), at("v1")),
            moved(at("v4"), at("v3"), at("v2"), at("v1"), at("v1")),
        ]

    def test_target_stays_and_what_lies_between_it_and_the_content_goes(self) -> None:
        assert plan(doomed("v1", "v2"), CHAIN) == [
            copied(at("v3"), at("v2"), at("v1")),
            moved(at("v4"), at("v3"), None, at("v1"), at("v1")),
        ]

    def test_links_within_a_version(self) -> None:
        local = [link(at("v2", "L"), at("v1")), link(at("v2", "O"), at("v2", "L"), at("v1"))]
        assert plan(doomed("v1"), local) == [
            copied(at("v2", "L"), at("v1")),
            moved(at("v2", "O"), at("v2", "L"), None, at("v1"), at("v1")),
        ]

    def test_each_of_several_links_to_a_doomed_file_becomes_a_copy(self) -> None:
        entries = [link(at("v2", "y"), at("v1")), link(at("v2", "x"), at("v1"))]
        assert plan(doomed("v1"), entries) == [copied(at("v2", "x"), at("v1")), copied(at("v2", "y"), at("v1"))]


class TestWhatIsDoomed:
    LINKS = (link(FileAddress("q", "b", "w", "f"), at("v1")),)

    @pytest.mark.parametrize("doom", [Doomed("p"), Doomed("p", "a"), Doomed("p", "a", "v1")])
    def test_projects_assets_and_versions(self, doom: Doomed) -> None:
        assert plan([doom], self.LINKS) == [copied(FileAddress("q", "b", "w", "f"), at("v1"))]

    @pytest.mark.parametrize("doom", [Doomed("pp"), Doomed("p", "aa"), Doomed("p", "a", "v")])
    def test_not_what_has_a_similar_name(self, doom: Doomed) -> None:
        assert plan([doom], self.LINKS) == []

    def test_links_that_are_doomed_themselves(self) -> None:
        assert plan([Doomed("p"), Doomed("q")], [*self.LINKS, *CHAIN]) == []

    def test_nothing(self) -> None:
        assert plan([], CHAIN) == []

    @pytest.mark.parametrize("good", [Doomed("p"), Doomed("p", "a"), Doomed("p", "a", "v")])
    def test_names_that_can_be(self, good: Doomed) -> None:
        good.check()

    @pytest.mark.parametrize(
        ("bad", "words"),
        [
            (Doomed(""), "project: .* empty"),
            (Doomed("p", "", "v"), "asset: .* empty"),
            (Doomed(".."), "project: '..'"),
            (Doomed("p", "a/b"), "asset: 'a/b'"),
            (Doomed("p", "a", "..v"), "version: '..v'"),
        ],
    )
    def test_names_that_cannot_be(self, bad: Doomed, words: str) -> None:
        with pytest.raises(ValueError, match=words):
            bad.check()


class TestDamage:
    def test_nothing_is_made_to_lead_to_what_is_missing(self) -> None:
        assert plan(doomed("v3", "v1"), CHAIN, missing=[at("v2")]) == [copied(at("v4"), at("v3"), at("v1"))]
        assert plan(doomed("v3"), CHAIN, missing=[at("v2")]) == [moved(at("v4"), at("v1"), None, at("v3"), at("v1"))]

    def test_what_is_lost_is_left_as_it_is(self) -> None:
        assert plan(doomed("v2"), CHAIN, missing=[at("v1")]) == []
        assert plan(doomed("other"), CHAIN, missing=[at("v2")]) == []

    def test_an_ancestor_that_the_chain_does_not_reach_is_believed(self) -> None:
        entries = [link(at("v4"), at("v3"), at("v1"))]
        assert plan(doomed("v3"), entries) == [moved(at("v4"), at("v1"), None, at("v3"), at("v1"))]

    def test_nothing_is_made_to_lead_into_a_circle(self) -> None:
        entries = [
            link(at("v1"), at("v2"), at("v9")),
            link(at("v2"), at("v1"), at("v9")),
            link(at("v3"), at("v2"), at("v9")),
        ]
        assert [change.copy for change in plan(doomed("v9"), entries)] == [True, True, True]
        assert plan(doomed("v2"), entries) == [
            moved(at("v1"), at("v9"), None, at("v2"), at("v9")),
            moved(at("v3"), at("v9"), None, at("v2"), at("v9")),
        ]


def test_a_very_long_chain() -> None:
    versions = [f"{number:05}" for number in range(20_000)]
    entries = [link(at("00001"), at("00000"))]
    entries += [link(at(new), at(old), at("00000")) for old, new in itertools.pairwise(versions[1:])]
    changes = plan(doomed("00000"), entries)
    assert [change.copy for change in changes] == [True] + [False] * (len(versions) - 2)
    assert {change.ancestor for change in changes[2:]} == {at("00001")}


@dataclass
class Registry:
    """A registry of entries, which are linked as uploads link them."""

    entries: dict[FileAddress, Entry]

    def links(self) -> list[LinkEntry]:
        return [
            LinkEntry(address, entry.size, entry.target, entry.ancestor)
            for address, entry in self.entries.items()
            if entry.target is not None
        ]

    def relevant_links(self, doom: set[VersionAddress]) -> list[LinkEntry]:
        """Only those that the plan says it needs."""
        return [
            found
            for found in self.links()
            if any(
                address is not None and address.version_address in doom
                for address in (found.address, found.target, found.ancestor)
            )
        ]

    def check(self) -> None:
        for address, entry in self.entries.items():
            if entry.target is None:
                assert entry.ancestor is None
                continue
            target = self.entries[entry.target]
            assert target.md5 == entry.md5
            assert target.holder == entry.ancestor, address
            assert entry.holder is not None
            assert not self.entries[entry.holder].is_link
            assert self.entries[entry.holder].md5 == entry.md5


@st.composite
def registries(draw: st.DrawFn) -> Registry:
    entries: dict[FileAddress, Entry] = {}
    latest: dict[tuple[str, str], VersionAddress] = {}
    for number in range(draw(st.integers(1, 9))):
        version = VersionAddress(draw(st.sampled_from("pq")), draw(st.sampled_from("ab")), f"v{number}")
        own: list[Entry] = []
        asset = (version.project, version.asset)
        before = latest.get(asset)
        of_latest = [entry for address, entry in entries.items() if address.version_address == before]
        dedup = Dedup(of_latest, before) if before else None
        for path in draw(st.sets(st.sampled_from(["x", "y", "z"]), min_size=1)):
            if entries and draw(st.integers(0, 3)) == 0:
                target = draw(st.sampled_from(list(entries)))
                own.append(link_to(path, target, entries[target]))
            else:
                content = draw(st.integers(1, 3))
                md5 = bytes([content] * 16)
                found = (dedup.link_for(content, md5, None, path) if dedup else None) or (None, None)
                own.append(Entry(path, content, md5, None, *found))
        names = draw(st.sets(st.sampled_from(["k", "l", "m"])))
        chain = [*(entry.path for entry in own), *names]
        local = {name: draw(st.sampled_from(chain[: chain.index(name)])) for name in names}
        own += local_links(version, own, local)
        entries |= {version.file(entry.path): entry for entry in own}
        if draw(st.booleans()):
            latest[asset] = version
    return Registry(entries)


@given(registries(), st.data())
def test_after_it_everything_doomed_can_go(registry: Registry, data: st.DataObject) -> None:
    registry.check()
    versions = sorted({address.version_address for address in registry.entries})
    dooms = [Doomed(v.project, *rest) for v in versions for rest in ((), (v.asset,), (v.asset, v.version))]
    doom = data.draw(st.lists(st.sampled_from(dooms), max_size=4))
    gone = {
        v
        for v in versions
        if {Doomed(v.project), Doomed(v.project, v.asset), Doomed(v.project, v.asset, v.version)} & set(doom)
    }

    changes = plan(doom, registry.links())
    assert plan(doom, registry.relevant_links(gone)) == changes
    assert changes == sorted(changes, key=lambda change: change.address)

    after = dict(registry.entries)
    for change in changes:
        old = after[change.address]
        assert change.content == old.holder
        assert change.copy == (change.target is None)
        assert change.usage == (old.size if change.copy else 0)
        assert change.source == (
            old.target if old.target is not None and old.target.version_address in gone else old.ancestor
        )
        after[change.address] = Entry(old.path, old.size, old.md5, old.sha256, change.target, change.ancestor)
    survivors = Registry({address: entry for address, entry in after.items() if address.version_address not in gone})
    survivors.check()

    changed = {change.address for change in changes}
    for address, entry in survivors.entries.items():
        old = registry.entries[address]
        assert (entry.size, entry.md5) == (old.size, old.md5)
        must_change = any(leads is not None and leads.version_address in gone for leads in (old.target, old.ancestor))
        assert (address in changed) == must_change
        # a copy only if nothing that it led to stays
        chain = old.target
        stays = False
        while chain is not None:
            stays |= chain.version_address not in gone
            chain = registry.entries[chain].target
        assert (old.is_link and not entry.is_link) == (old.is_link and not stays)
    assert changed <= set(survivors.entries)
    assert plan(doom, survivors.links()) == []
