import pytest
from hypothesis import given
from hypothesis import strategies as st

from drayman.server.registry.addresses import FileAddress, VersionAddress
from drayman.server.registry.entries import Entry, check_tree, usage

NAME = st.text(
    st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="/\\"), min_size=1, max_size=40
).filter(lambda name: name != "." and not name.startswith(".."))
PATH = st.lists(NAME, min_size=1, max_size=4).map("/".join)
MD5 = b"m" * 16


@given(NAME, NAME, NAME, PATH)
def test_what_is_written_is_read_again(project: str, asset: str, version: str, path: str) -> None:
    address = FileAddress(project, asset, version, path)
    assert FileAddress.parse(address.key) == address
    assert VersionAddress.parse(address.folder) == address.version_address
    assert address.version_address.file(path) == address


@pytest.mark.parametrize(
    "text", ["", "a", "a/b", "a/b/c", "a/b/c/", "a/b/c/..links", "../b/c/d", "a/./c/d", "a/b/c/d/../e"]
)
def test_what_is_no_file_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected|cannot be"):
        FileAddress.parse(text)


@pytest.mark.parametrize("text", ["", "a", "a/b", "a/b/c/d", "a//c", "a/b/..c"])
def test_what_is_no_version_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected|cannot be"):
        VersionAddress.parse(text)


def test_a_refusal_says_which_name_it_is_about() -> None:
    with pytest.raises(ValueError, match=r"asset: '\.\.x' cannot be a name"):
        VersionAddress("p", "..x", "v").check()


def test_only_content_that_is_stored_counts_as_usage() -> None:
    there = FileAddress("p", "a", "v1", "f")
    entries = [Entry("a", 5, MD5), Entry("b", 7, MD5, None, there), Entry("c", 0, None), Entry("d", 2, MD5, bytes(32))]
    assert usage(entries) == 7
    assert [entry.is_link for entry in entries] == [False, True, False, False]
    assert [entry.is_directory for entry in entries] == [False, False, True, False]
    for entry in entries:
        entry.check()


def test_the_content_of_a_link_is_at_its_ancestor() -> None:
    target, ancestor = FileAddress("p", "a", "v2", "f"), FileAddress("p", "a", "v1", "f")
    assert Entry("a", 1, MD5, None, target, ancestor).holder == ancestor
    assert Entry("a", 1, MD5, None, target).holder == target
    assert Entry("a", 1, MD5).holder is None


@pytest.mark.parametrize(
    "entry",
    [
        Entry("..a", 1, MD5),
        Entry("a", -1, MD5),
        Entry("a", 1, None),
        Entry("a", 0, None, bytes(32)),
        Entry("a", 0, None, None, FileAddress("p", "a", "v", "f")),
        Entry("a", 1, b"short"),
        Entry("a", 1, MD5, b"short"),
        Entry("a", 1, MD5, None, None, FileAddress("p", "a", "v", "f")),
    ],
)
def test_what_can_be_no_entry_is_refused(entry: Entry) -> None:
    with pytest.raises(ValueError, match=r"'\.?\.?a'"):
        entry.check()


@given(st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map("/".join), max_size=8))
def test_paths_that_exclude_each_other_are_refused(paths: list[str]) -> None:
    clash = len(set(paths)) < len(paths) or any(other.startswith(path + "/") for path in paths for other in paths)
    if clash:
        with pytest.raises(ValueError, match=r"twice|is below"):
            check_tree(paths)
    else:
        check_tree(paths)
