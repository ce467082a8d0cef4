import posixpath
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from drayman.server.registry.addresses import FileAddress, VersionAddress
from drayman.server.registry.entries import Entry
from drayman.server.registry.linking import Dedup, led_to, local_links, registry_link, symlink_text

V1 = VersionAddress("p", "a", "v1")
V2 = VersionAddress("p", "a", "v2")
V3 = VersionAddress("p", "a", "v3")
V4 = VersionAddress("p", "a", "v4")
MD5 = bytes(16)
SHA = bytes(32)
OTHER_SHA = bytes([1] * 32)

NAMES = st.text(st.sampled_from("ab.é \n"), min_size=1, max_size=3).filter(
    lambda name: name != "." and not name.startswith("..")
)
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)
ADDRESSES = st.builds(FileAddress, NAMES, NAMES, NAMES, PATHS)


def file(path: str, size: int = 3, md5: bytes = MD5, sha256: bytes | None = SHA) -> Entry:
    return Entry(path, size, md5, sha256)


class TestDedup:
    def test_same_content_is_found_under_another_path(self) -> None:
        assert Dedup([file("old")], V1).link_for(3, MD5, SHA, "new") == (V1.file("old"), None)

    def test_empty_files_are_content_too(self) -> None:
        assert Dedup([file("old", 0)], V1).link_for(0, MD5, SHA) == (V1.file("old"), None)

    @pytest.mark.parametrize(("size", "md5", "sha256"), [(4, MD5, SHA), (3, bytes([1] * 16), SHA), (3, MD5, OTHER_SHA)])
    def test_other_content_is_not(self, size: int, md5: bytes, sha256: bytes) -> None:
        assert Dedup([file("old")], V1).link_for(size, md5, sha256) is None

    def test_sha256_counts_only_if_both_have_one(self) -> None:
        assert Dedup([file("old", sha256=None)], V1).link_for(3, MD5, SHA) == (V1.file("old"), None)
        assert Dedup([file("old")], V1).link_for(3, MD5, None) == (V1.file("old"), None)

    def test_directories_never_match(self) -> None:
        assert Dedup([Entry("d", 0, None)], V1).link_for(0, MD5, SHA) is None

    def test_the_same_path_comes_first_then_the_smallest(self) -> None:
        dedup = Dedup([file("c"), file("b"), file("a", sha256=OTHER_SHA)], V1)
        assert dedup.link_for(3, MD5, SHA, "c") == (V1.file("c"), None)
        assert dedup.link_for(3, MD5, SHA, "z") == (V1.file("b"), None)
        assert dedup.link_for(3, MD5, SHA, "a") == (V1.file("b"), None)

    def test_a_chain_keeps_its_ancestor(self) -> None:
        second = Dedup([file("foo")], V1).link_for(3, MD5, SHA, "foo")
        assert second == (V1.file("foo"), None)
        third = Dedup([Entry("foo", 3, MD5, SHA, *second)], V2).link_for(3, MD5, SHA, "foo")
        assert third == (V2.file("foo"), V1.file("foo"))
        fourth = Dedup([Entry("foo", 3, MD5, SHA, *third)], V3).link_for(3, MD5, SHA, "foo")
        assert fourth == (V3.file("foo"), V1.file("foo"))

    @given(st.permutations(["b", "a", "dir/a", "c"]), st.sampled_from(["a", "c", "x"]))
    def test_the_choice_does_not_depend_on_the_order(self, paths: list[str], path: str) -> None:
        found = Dedup(map(file, paths), V1).link_for(3, MD5, SHA, path)
        assert found == (V1.file(path if path in paths else "a"), None)


class TestLocalLinks:
    def test_to_a_file(self) -> None:
        assert local_links(V2, [file("foo")], {"bar": "foo"}) == [Entry("bar", 3, MD5, SHA, V2.file("foo"))]

    def test_to_a_link_to_elsewhere(self) -> None:
        deduplicated = Entry("foo", 3, MD5, SHA, V1.file("foo"))
        further = Entry("far", 3, MD5, SHA, V1.file("foo"), FileAddress("q", "b", "w", "x"))
        assert local_links(V2, [deduplicated, further], {"x": "foo", "y": "far"}) == [
            Entry("x", 3, MD5, SHA, V2.file("foo"), V1.file("foo")),
            Entry("y", 3, MD5, SHA, V2.file("far"), FileAddress("q", "b", "w", "x")),
        ]

    def test_chains(self) -> None:
        links = {"1": "2", "2": "3", "3": "d/foo", "0": "2"}
        assert local_links(V2, [file("d/foo")], links) == [
            Entry("1", 3, MD5, SHA, V2.file("2"), V2.file("d/foo")),
            Entry("2", 3, MD5, SHA, V2.file("3"), V2.file("d/foo")),
            Entry("3", 3, MD5, SHA, V2.file("d/foo"), None),
            Entry("0", 3, MD5, SHA, V2.file("2"), V2.file("d/foo")),
        ]

    def test_a_very_long_chain(self) -> None:
        links = {str(number): str(number + 1) for number in range(20_000)}
        found = local_links(V2, [file("20000")], links)
        assert {entry.ancestor for entry in found[:-1]} == {V2.file("20000")}
        assert (found[-1].target, found[-1].ancestor) == (V2.file("20000"), None)

    @pytest.mark.parametrize(
        ("links", "words"),
        [
            ({"x": "x"}, "'x' leads back to 'x'"),
            ({"x": "y", "y": "z", "z": "y"}, "'x' leads back to 'y'"),
            ({"x": "nowhere"}, "'x' leads to 'nowhere', which is not part"),
            ({"y": "x", "x": "nowhere"}, "'x' leads to 'nowhere', which is not part"),
            ({"x": "dir"}, "'x' leads to 'dir', which is a directory"),
            ({"x": "dir/sub"}, "'x' leads to 'dir/sub', which is a directory"),
            ({"x": "empty"}, "'x' leads to 'empty', which is a directory"),
            ({"x": ""}, "'x' leads to '', which is not part"),
            ({"foo": "dir/sub/bar"}, "'foo' is there twice"),
        ],
    )
    def test_refusals_name_the_link(self, links: dict[str, str], words: str) -> None:
        with pytest.raises(ValueError, match=words):
            local_links(V2, [file("foo"), file("dir/sub/bar"), Entry("empty", 0, None)], links)

    @given(st.dictionaries(st.integers(0, 9), st.integers(0, 14)), st.sets(st.integers(10, 14)))
    def test_every_link_gets_the_content_at_its_end(self, leads: dict[int, int], files: set[int]) -> None:
        def end(number: int) -> int | None:
            seen = set()
            while number in leads and number not in seen:
                seen.add(number)
                number = leads[number]
            return number if number in files else None

        entries = [file(str(number), number) for number in files]
        links = {str(link): str(target) for link, target in leads.items()}
        if any(end(number) is None for number in leads):
            with pytest.raises(ValueError, match="the link '"):
                local_links(V2, entries, links)
            return
        for link, found in zip(links, local_links(V2, entries, links), strict=True):
            assert (found.path, found.size, found.target) == (link, end(int(link)), V2.file(links[link]))
            assert found.holder == V2.file(str(end(int(link))))
            assert (found.ancestor is None) == (leads[int(link)] in files)


class TestRegistryLinks:
    def test_content_is_that_of_the_target(self) -> None:
        assert registry_link("x", V2, V1.file("foo"), file("foo"), on_probation=False) == Entry(
            "x", 3, MD5, SHA, V1.file("foo")
        )

    def test_the_ancestor_is_kept(self) -> None:
        found = Entry("foo", 3, MD5, SHA, V1.file("foo"))
        further = Entry("foo", 3, MD5, SHA, V2.file("foo"), V1.file("foo"))
        assert registry_link("x", V4, V2.file("foo"), found, on_probation=False).ancestor == V1.file("foo")
        assert registry_link("x", V4, V3.file("foo"), further, on_probation=False).ancestor == V1.file("foo")

    @pytest.mark.parametrize(
        ("target", "found", "on_probation", "words"),
        [
            (V2.file("foo"), file("foo"), False, "which is in the version that is being uploaded"),
            (V1.file("foo"), None, False, "which is not there"),
            (V1.file("foo"), file("foo"), True, "which waits for approval"),
            (V1.file("foo"), Entry("foo", 0, None), False, "which is a directory"),
        ],
    )
    def test_refusals_name_the_link(
        self, target: FileAddress, found: Entry | None, on_probation: bool, words: str
    ) -> None:
        with pytest.raises(ValueError, match=f"the link 'dir/x' leads to '{target.key}', {words}"):
            registry_link("dir/x", V2, target, found, on_probation=on_probation)


class TestSymlinks:
    @pytest.mark.parametrize(
        ("at", "to", "text"),
        [
            (V2.file("foo"), V1.file("foo"), "../v1/foo"),
            (V3.file("sub/foo"), V1.file("foo"), "../../v1/foo"),
            (V3.file("sub/foo"), V3.file("sub/bar"), "bar"),
            (V3.file("sub/foo"), V3.file("bar"), "../bar"),
            (V3.file("foo"), V3.file("sub/bar"), "sub/bar"),
            (FileAddress("q", "b", "w", "foo"), FileAddress("p", "a", "v1", "foo"), "../../../p/a/v1/foo"),
        ],
    )
    def test_they_are_relative(self, at: FileAddress, to: FileAddress, text: str) -> None:
        assert symlink_text(at, to) == text
        assert led_to(at, text) == to

    def test_not_to_itself(self) -> None:
        with pytest.raises(ValueError, match="'p/a/v1/foo' cannot be a link to itself"):
            symlink_text(V1.file("foo"), V1.file("foo"))

    @given(ADDRESSES, ADDRESSES)
    @example(FileAddress("p", "a", "v", "x/y"), FileAddress("p", "a", "v", "x"))
    def test_the_text_leads_there(self, at: FileAddress, to: FileAddress) -> None:
        if at == to:
            return
        text = symlink_text(at, to)
        assert not text.startswith("/")
        assert posixpath.normpath(posixpath.join("/r", posixpath.dirname(at.key), text)) == f"/r/{to.key}"
        assert led_to(at, text) == to

    def test_on_a_real_file_system(self, tmp_path: Path) -> None:
        at, to = FileAddress("q", "b", "w", "sub/dir/foo"), V1.file("x/y")
        for address in (at, to):
            (tmp_path / address.key).parent.mkdir(parents=True)
        (tmp_path / to.key).write_text("content")
        (tmp_path / at.key).symlink_to(symlink_text(at, to))
        tmp_path.rename(moved := tmp_path.with_name("moved"))
        assert (moved / at.key).read_text() == "content"
        assert led_to(at, str((moved / at.key).readlink())) == to

    @pytest.mark.parametrize(
        "text",
        [
            "../../../../p/a/v1/foo",
            "../../../../../../etc/passwd",
            "..",
            "../v1",
            "../../../p",
            "/r/p/a/v1/foo",
            "/etc/passwd",
            ".",
        ],
    )
    def test_what_leaves_the_registry_or_is_no_file(self, text: str) -> None:
        assert led_to(V2.file("foo"), text) is None

    @pytest.mark.parametrize("root", ["/r", "/r/", "/x/../r"])
    def test_absolute_texts_below_the_root(self, root: str) -> None:
        assert led_to(V2.file("foo"), "/r/p/a/v1/sub/../foo", root) == V1.file("foo")
        assert led_to(V2.file("foo"), "/rr/p/a/v1/foo", root) is None
        assert led_to(V2.file("foo"), "/r/../p/a/v1/foo", root) is None
