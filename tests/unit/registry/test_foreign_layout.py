from __future__ import annotations

import dataclasses
import posixpath
from collections.abc import Iterable
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drayman.server.registry import documents, foreign_layout
from drayman.server.registry.addresses import FileAddress, VersionAddress
from drayman.server.registry.content import Found, Kind
from drayman.server.registry.documents import Link, Summary
from drayman.server.registry.entries import Entry
from drayman.server.registry.foreign_layout import MOST_PROBLEMS, ForeignVersion, Problem, Unreadable
from drayman.server.registry.latest import Candidate
from drayman.server.registry.linking import symlink_text
from drayman.server.registry.permissions import Permissions, Uploader
from drayman.server.registry.quota import Quota

V1 = VersionAddress("p", "a", "v1")
V3 = VersionAddress("p", "a", "v3")
MD5, SHA = bytes(range(16)), bytes(range(32))
NOON = datetime(2025, 7, 1, 12, tzinfo=UTC)
SUMMARY = Summary("alicia", NOON, NOON)
DEFAULT = Quota(5, 6, 2020)

PLAIN = Entry("dir/plain", 3, MD5)
EMPTY = Entry("empty/deep", 0, None)
LINKED = Entry("dir/linked", 4, MD5, None, FileAddress("p", "a", "v2", "x"), FileAddress("p", "a", "v1", "x"))
DIRECT = Entry("direct", 5, MD5, None, FileAddress("q", "b", "w", "y/z"))
LOCAL = Entry("local", 3, MD5, None, V3.file("dir/plain"))
ENTRIES = [LINKED, PLAIN, DIRECT, EMPTY, LOCAL]


def on_disk(at: VersionAddress, entries: Iterable[Entry]) -> ForeignVersion:
    """A version just as it should be."""
    entries = sorted(entries, key=lambda entry: entry.path)
    found = {name: Found(name, Kind.FILE, 9) for name in (documents.MANIFEST, documents.SUMMARY)}
    links = documents.links(entries)
    found |= {path: Found(path, Kind.FILE, len(document)) for path, document in links.items()}
    for entry in entries:
        folder = posixpath.dirname(entry.path)
        while folder:
            found[folder] = Found(folder, Kind.DIRECTORY)
            folder = posixpath.dirname(folder)
        if entry.holder is not None:
            text = symlink_text(at.file(entry.path), entry.holder)
            found[entry.path] = Found(entry.path, Kind.LINK, 0, text)
        else:
            found[entry.path] = Found(entry.path, Kind.DIRECTORY if entry.is_directory else Kind.FILE, entry.size)
    return ForeignVersion(
        address=at,
        manifest=foreign_layout.read(documents.manifest(entries), documents.read_manifest),
        summary=SUMMARY,
        links={path: foreign_layout.read(document, documents.read_links) for path, document in links.items()},
        found=tuple(found.values()),
        followed={entry.path: entry.size for entry in entries if entry.is_link},
    )


GOOD = on_disk(V3, ENTRIES)


def with_found(*items: Found, without: str = "") -> ForeignVersion:
    """The good version, with something else in its folder."""
    there = {item.path: item for item in GOOD.found} | {item.path: item for item in items}
    there.pop(without, None)
    return dataclasses.replace(GOOD, found=tuple(there.values()))


def told(foreign: ForeignVersion, root: str = "") -> list[str]:
    """Problems of a version that is taken over all the same."""
    findings = foreign_layout.version(foreign, root)
    assert findings.summary == SUMMARY
    assert list(findings.entries) == sorted(ENTRIES, key=lambda entry: entry.path)
    assert not any(problem.blocking for problem in findings.problems)
    return foreign_layout.texts(findings.problems)


def blocked(foreign: ForeignVersion) -> str:
    """The only problem of a version that is not taken over."""
    findings = foreign_layout.version(foreign)
    assert findings.summary is None
    assert findings.entries == ()
    (problem,) = findings.problems
    assert problem.blocking
    return str(problem)


class TestGoodVersions:
    def test_it_is_taken_over(self) -> None:
        findings = foreign_layout.version(GOOD)
        assert findings.problems == ()
        assert findings.summary == SUMMARY
        assert list(findings.entries) == sorted(ENTRIES, key=lambda entry: entry.path)
        assert findings.usage == 3

    def test_one_without_files(self) -> None:
        findings = foreign_layout.version(on_disk(V3, []))
        assert (findings.summary, findings.entries, findings.problems) == (SUMMARY, (), ())

    def test_what_was_hashed_gets_its_sha256(self) -> None:
        findings = foreign_layout.version(
            dataclasses.replace(GOOD, hashes={"dir/plain": (MD5, SHA), "direct": (MD5, SHA)})
        )
        assert {entry.path: entry.sha256 for entry in findings.entries if entry.sha256} == {
            "dir/plain": SHA,
            "direct": SHA,
        }

    def test_a_link_to_a_folder_that_all_may_read(self) -> None:
        foreign = with_found(Found("dir/plain", Kind.LINK, 0, "/data/plain"))
        assert told(dataclasses.replace(foreign, followed={**GOOD.followed, "dir/plain": 3})) == []

    @given(
        st.dictionaries(
            st.lists(st.sampled_from(["a", ".b", "é", "c d"]), min_size=1, max_size=3).map("/".join),
            st.tuples(st.integers(0, 4), st.integers(0, 3)),
            max_size=6,
        ),
        st.data(),
    )
    def test_whatever_is_in_it(self, files: dict[str, tuple[int, int]], data: st.DataObject) -> None:
        taken = {path for path in files if not any(other.startswith(f"{path}/") for other in files)}
        entries = []
        for path in sorted(taken):
            size, kind = files[path]
            target, ancestor = FileAddress("p", "a", "v2", "x"), FileAddress("q", "b", "w", path)
            entries.append(
                [
                    Entry(path, size, MD5),
                    Entry(path, 0, None),
                    Entry(path, size, MD5, None, target),
                    Entry(path, size, MD5, None, target, ancestor),
                ][kind]
            )
        foreign = on_disk(V3, entries)
        assert foreign_layout.version(foreign) == foreign_layout.VersionFindings(V3, SUMMARY, tuple(entries), ())
        if entries:
            lost = data.draw(st.sampled_from(entries)).path
            rest = tuple(item for item in foreign.found if item.path != lost)
            assert blocked(dataclasses.replace(foreign, found=rest)).endswith(": is in the manifest, and missing")


class TestDamagedVersions:
    def test_unfinished_uploads(self) -> None:
        words = "an unfinished upload: it has no ..summary"
        assert blocked(dataclasses.replace(GOOD, summary=None, manifest=None)) == words
        assert blocked(dataclasses.replace(GOOD, summary=None)) == words

    def test_no_manifest(self) -> None:
        assert blocked(dataclasses.replace(GOOD, manifest=None)).startswith("..manifest: is missing")

    def test_unreadable_documents(self) -> None:
        assert blocked(dataclasses.replace(GOOD, manifest=Unreadable("torn"))) == "..manifest: torn"
        assert blocked(dataclasses.replace(GOOD, summary=Unreadable("torn"))) == "..summary: torn"

    @pytest.mark.parametrize("path", ["dir/plain", "dir/linked", "direct", "empty/deep"])
    def test_something_is_missing(self, path: str) -> None:
        assert blocked(with_found(without=path)) == f"{path}: is in the manifest, and missing"

    @pytest.mark.parametrize(
        ("item", "words"),
        [
            (Found("dir/plain", Kind.FILE, 2), "dir/plain: has 2 bytes, and 3 in the manifest"),
            (Found("dir/plain", Kind.DIRECTORY), "dir/plain: is a directory, and a file in the manifest"),
            (
                Found("dir/plain", Kind.OTHER),
                "dir/plain: is neither a file nor a directory, and a file in the manifest",
            ),
            (
                Found("dir/plain", Kind.LINK, 0, "../../v1/x"),
                "dir/plain: is a symbolic link to ../../v1/x, and a file in the manifest",
            ),
            (
                Found("dir/plain", Kind.LINK, 0, "../../../../../x"),
                "dir/plain: is a symbolic link to ../../../../../x, and a file in the manifest",
            ),
            (
                Found("dir/plain", Kind.LINK, 0, "/data/gone"),
                "dir/plain: is a symbolic link to /data/gone, which is not there",
            ),
            (Found("empty/deep", Kind.FILE, 0), "empty/deep: is a file, and a directory in the manifest"),
            (
                Found("empty/deep", Kind.LINK, 0, "x"),
                "empty/deep: is a symbolic link, and an empty directory in the manifest",
            ),
            (Found("dir/linked", Kind.FILE, 4), "dir/linked: is a file, and a link in the manifest"),
            (
                Found("dir/linked", Kind.LINK, 0, "../../v1/y"),
                "dir/linked: is a symbolic link to ../../v1/y, and leads to p/a/v1/x by the manifest",
            ),
            (
                Found("dir/linked", Kind.LINK, 0, "/etc/passwd"),
                "dir/linked: is a symbolic link to /etc/passwd, and leads to p/a/v1/x by the manifest",
            ),
            (
                Found("dir/linked", Kind.LINK, 0, "\udcff\n"),
                "dir/linked: is a symbolic link to \\udcff\\n, and leads to p/a/v1/x by the manifest",
            ),
        ],
    )
    def test_something_else_is_there(self, item: Found, words: str) -> None:
        assert blocked(with_found(item)) == words

    def test_links_that_lead_nowhere_or_to_another_size(self) -> None:
        followed = {path: size for path, size in GOOD.followed.items() if path != "direct"}
        assert (
            blocked(dataclasses.replace(GOOD, followed=followed))
            == "direct: is a symbolic link to ../../../q/b/w/y/z, which is not there"
        )
        assert (
            blocked(dataclasses.replace(GOOD, followed={**followed, "direct": 6}))
            == "direct: has 6 bytes, and 5 in the manifest"
        )

    def test_other_content(self) -> None:
        words = f"dir/plain: has the MD5 {bytes(16).hex()}, and {MD5.hex()} in the manifest"
        assert blocked(dataclasses.replace(GOOD, hashes={"dir/plain": (bytes(16), SHA)})) == words

    @pytest.mark.parametrize(
        ("entry", "words"),
        [
            (Entry("../x", 3, MD5), "../x: the manifest cannot be right: '../x' cannot be a path"),
            (Entry("a\nb", 3, MD5), "a\\nb: the manifest cannot be right"),
            (Entry("x", 3, None), "x: the manifest cannot be right"),
            (
                Entry("x", 3, MD5, None, FileAddress("..", "a", "v", "x")),
                "x: the manifest cannot be right: project: '..'",
            ),
            (Entry("x", 3, MD5, None, V1.file("x"), V1.file("/x")), "x: the manifest cannot be right: '/x'"),
        ],
    )
    def test_entries_that_cannot_be(self, entry: Entry, words: str) -> None:
        foreign = dataclasses.replace(GOOD, manifest=[entry], found=(), links={})
        problem = next(filter(lambda problem: problem.blocking, foreign_layout.version(foreign).problems))
        assert str(problem).startswith(words)

    def test_one_entry_below_another(self) -> None:
        foreign = on_disk(V3, [Entry("x", 3, MD5), Entry("x/y", 3, MD5)])
        findings = foreign_layout.version(foreign)
        assert findings.summary is None
        assert foreign_layout.texts(findings.problems)[0].startswith("..manifest: 'x/y' is below 'x'")


class TestOddVersions:
    def test_files_that_are_not_in_the_manifest(self) -> None:
        foreign = with_found(
            Found("dir/more", Kind.FILE, 1),
            Found("hollow", Kind.DIRECTORY),
            Found("\udcff", Kind.OTHER),
            Found("..odd", Kind.DIRECTORY),
            Found("..odd/inner", Kind.FILE),
        )
        rest = "that is not in the manifest: it does not belong to the version"
        assert told(foreign) == [
            f"..odd: is a directory {rest}",
            f"dir/more: is a file {rest}",
            f"hollow: is an empty directory {rest}",
            f"\\udcff: is neither a file nor a directory {rest}",
        ]

    def test_what_a_crash_or_a_lock_leaves_is_ignored(self) -> None:
        assert told(with_found(*(Found(p, Kind.FILE) for p in (".temp123.json", "dir/.temp9.json", "..LOCK")))) == []

    def test_a_file_of_the_user_may_have_such_a_name(self) -> None:
        entry = Entry(".temp123.json", 3, MD5)
        assert foreign_layout.version(on_disk(V3, [entry])).entries == (entry,)

    def test_links_that_do_not_lead_straight_to_the_content(self) -> None:
        foreign = with_found(Found("dir/linked", Kind.LINK, 0, "../../v2/x"))
        assert told(foreign) == ["dir/linked: leads to ../../v2/x, not straight to the file that holds the content"]

    def test_links_that_are_absolute(self) -> None:
        foreign = with_found(Found("direct", Kind.LINK, 0, "/registry/q/b/w/y/z"))
        assert told(foreign, "/registry") == [
            "direct: leads to /registry/q/b/w/y/z: it will lead nowhere once the registry is moved"
        ]
        assert foreign_layout.version(foreign, "/elsewhere").summary is None

    def test_documents_about_links_that_are_missing_or_torn(self) -> None:
        foreign = dataclasses.replace(GOOD, links={"dir/..links": Unreadable("torn")})
        assert told(foreign) == ["..links: is missing; the manifest has its links", "dir/..links: torn"]

    def test_documents_about_links_that_say_something_else(self) -> None:
        links = {
            **GOOD.links,
            "..links": {"direct": Link(V1.file("x")), "more": Link(V1.file("x")), "local": Link(V3.file("dir/plain"))},
            "empty/..links": {"x": Link(V1.file("x"))},
        }
        rest = "is not linked as the manifest says, which is believed"
        assert told(dataclasses.replace(GOOD, links=links)) == [
            f"..links: 'direct' {rest}",
            f"..links: 'more' {rest}",
            f"empty/..links: 'x' {rest}",
        ]


class TestProblems:
    def test_those_that_block_come_first(self) -> None:
        problems = [Problem("x", "odd"), Problem("", "broken", blocking=True)]
        assert foreign_layout.texts(problems) == ["broken", "x: odd"]

    def test_of_very_many_only_some(self) -> None:
        shown = foreign_layout.texts([Problem(str(number), "lost") for number in range(MOST_PROBLEMS + 1234)])
        assert len(shown) == MOST_PROBLEMS + 1
        assert shown[-1] == "1,234 more problems"

    @given(st.text() | st.binary().map(lambda name: name.decode("utf-8", "surrogateescape")))
    def test_any_path_can_be_told(self, path: str) -> None:
        assert foreign_layout.printable(path).encode().decode().isprintable()


class TestFolders:
    def test_projects(self) -> None:
        found = [
            Found("..logs", Kind.DIRECTORY),
            Found("..LOCK", Kind.FILE),
            Found("..incoming", Kind.DIRECTORY),
            Found(".temp5.json", Kind.FILE),
            Found("q", Kind.DIRECTORY),
            Found(".p", Kind.DIRECTORY),
            Found("a\nb", Kind.DIRECTORY),
            Found("notes", Kind.FILE),
            Found("s", Kind.LINK, 0, "q"),
        ]
        good, problems = foreign_layout.folders(found, "project")
        assert good == [".p", "q"]
        assert [(problem.path, problem.blocking) for problem in problems] == [
            ("a\nb", True),
            ("notes", False),
            ("s", False),
        ]
        assert str(problems[1]) == "notes: is a file, and belongs to no project"
        assert str(problems[0]).startswith("a\\nb: 'a\\nb' cannot be a name")


class TestProjects:
    GRANTED = Permissions(("akari",), (Uploader("alicia", asset="a"),), True)

    def test_one_as_it_should_be(self) -> None:
        findings = foreign_layout.project("p", self.GRANTED, Quota(1, 2, 2024), DEFAULT)
        assert findings == foreign_layout.ProjectFindings("p", self.GRANTED, Quota(1, 2, 2024), ())

    @pytest.mark.parametrize("found", [None, Unreadable("torn")])
    def test_without_permissions_it_is_left(self, found: Unreadable | None) -> None:
        findings = foreign_layout.project("p", found, DEFAULT, DEFAULT)
        assert findings.permissions is None
        assert [problem.blocking for problem in findings.problems] == [True]

    @pytest.mark.parametrize("found", [None, Unreadable("torn"), Quota(-1, 0, 2024)])
    def test_without_a_quota_it_gets_the_default(self, found: Quota | Unreadable | None) -> None:
        findings = foreign_layout.project("p", self.GRANTED, found, DEFAULT)
        assert (findings.permissions, findings.quota) == (self.GRANTED, DEFAULT)
        assert [str(problem).split(": ")[0] for problem in findings.problems] == ["..quota"]

    def test_odd_permissions_are_kept(self) -> None:
        odd = Permissions(("akari",), (Uploader("alicia", until="soon"),))
        findings = foreign_layout.project("p", odd, DEFAULT, DEFAULT)
        assert findings.permissions == odd
        assert [problem.blocking for problem in findings.problems] == [False]

    def test_usage(self) -> None:
        assert foreign_layout.total_usage(1234, 1234) == []
        rest = "the versions that were taken over add up to 1,234 bytes"
        (differs,) = foreign_layout.total_usage(0, 1234)
        assert str(differs) == f"..usage: says 0 bytes: {rest}"
        (missing,) = foreign_layout.total_usage(None, 1234)
        assert str(missing) == f"..usage: is missing: {rest}"
        (torn,) = foreign_layout.total_usage(Unreadable("torn"), 1234)
        assert str(torn) == f"..usage: torn: {rest}"


class TestAssets:
    def test_without_permissions_of_its_own(self) -> None:
        assert foreign_layout.asset("a", None) == foreign_layout.AssetFindings("a", True, None, ())

    def test_with_null_instead_of_uploaders(self) -> None:
        document = b'{"owners": ["eru"], "uploaders": null}'
        findings = foreign_layout.asset("a", foreign_layout.read(document, documents.read_permissions))
        assert findings == foreign_layout.AssetFindings("a", True, Permissions(("eru",)), ())

    def test_what_only_projects_have_is_dropped(self) -> None:
        found = Permissions((), (Uploader("alicia", asset="other", trusted=True),), True)
        assert foreign_layout.asset("a", found).permissions == Permissions((), (Uploader("alicia", trusted=True),))

    def test_unreadable_permissions(self) -> None:
        findings = foreign_layout.asset("a", Unreadable("torn"))
        assert not findings.adoptable
        assert foreign_layout.texts(findings.problems) == ["..permissions: torn"]


class TestLatest:
    OLD, NEW, ALSO_NEW = (
        Candidate("z", NOON),
        Candidate("c", NOON.replace(hour=13)),
        Candidate("a", NOON.replace(hour=13)),
    )

    def test_what_is_recorded(self) -> None:
        assert foreign_layout.latest_version("c", [self.OLD, self.NEW]) == (self.NEW, [])

    def test_of_one_second_the_recorded_one(self) -> None:
        assert foreign_layout.latest_version("c", [self.ALSO_NEW, self.NEW]) == (self.NEW, [])

    def test_no_version(self) -> None:
        assert foreign_layout.latest_version(None, []) == (None, [])

    @pytest.mark.parametrize(
        ("recorded", "words"),
        [
            (None, "..latest: is missing: c is taken"),
            (Unreadable("torn"), "..latest: torn: c is taken"),
            ("gone", "..latest: names 'gone', which is no version that is complete and approved: c is taken"),
            ("z", "..latest: names 'z', but another version was uploaded after it: c is taken"),
        ],
    )
    def test_what_is_wrong(self, recorded: str | Unreadable | None, words: str) -> None:
        found, problems = foreign_layout.latest_version(recorded, [self.OLD, self.NEW])
        assert found == self.NEW
        assert foreign_layout.texts(problems) == [words]

    def test_none_is_left(self) -> None:
        found, problems = foreign_layout.latest_version("z", [])
        assert found is None
        assert foreign_layout.texts(problems)[0].endswith("there is no latest version")


def test_what_cannot_be_read_says_why() -> None:
    assert foreign_layout.read(None, documents.read_latest) is None
    assert foreign_layout.read(b'{"version": "v1"}', documents.read_latest) == "v1"
    torn = foreign_layout.read(b'{"vers', documents.read_latest)
    assert isinstance(torn, Unreadable)
    assert "JSON" in torn.reason
