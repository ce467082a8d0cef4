"""What `ddisp` reads from its command line."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drayman.cli.file_entry import file_array
from drayman.client import File
from drayman.ddisp import values
from drayman.ddisp.endings import Misuse, Refusal
from drayman.ddisp.file_sources import json_listed, listed
from drayman.ddisp.worker import _file_after_j


def test_attribute_values_have_the_type_that_they_look_like() -> None:
    text = "a=1 b=-2.5 c=1e3 d=null e=true f=false g=True h=x=y i= j=nan k=inf l=07x"
    assert values.attributes(text) == {
        "a": 1,
        "b": -2.5,
        "c": 1000.0,
        "d": None,
        "e": True,
        "f": False,
        # the server reads this one as `retry_on_timeout` needs it
        "g": "True",
        "h": "x=y",
        "i": "",
        "j": "nan",
        "k": "inf",
        "l": "07x",
    }
    assert values.attributes("") == {}
    for wrong in ("x", "=1", "a=1 b"):
        with pytest.raises(Misuse, match="expected name=value"):
            values.attributes(wrong)


@given(st.dictionaries(st.from_regex(r"[a-z.]{1,8}", fullmatch=True), st.integers() | st.booleans() | st.none()))
def test_attributes_are_what_json_says(attributes: dict[str, object]) -> None:
    text = " ".join(f"{name}={json.dumps(value)}" for name, value in attributes.items())
    assert values.attributes(text) == attributes


def test_attributes_may_be_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "attributes"
    file.write_text('{"a": {"b": [1]}, "n": 1180591620717411303424}')
    assert values.attributes(f"@{file}") == {"a": {"b": [1]}, "n": 2**70}
    file.write_text("[1]")
    with pytest.raises(Misuse, match="JSON object"):
        values.attributes(f"@{file}")
    with pytest.raises(Misuse, match="No such file"):
        values.attributes(f"@{tmp_path}/none")


@pytest.mark.parametrize("text", ["90", "90s", "5m", "1.5h", "2d", "2D", "none", "None"])
def test_timeouts(text: str) -> None:
    assert values.timeout(text) == text.lower()


@pytest.mark.parametrize("text", ["", "soon", "5 parsecs", "-5", "1h30m"])
def test_what_is_no_timeout(text: str) -> None:
    with pytest.raises(Misuse, match="is no time-out"):
        values.timeout(text)


def test_names_of_files() -> None:
    assert values.did("a:b:c ") == "a:b:c "
    for wrong in ("a", "a:\udcff"):
        with pytest.raises(Misuse):
            values.did(wrong)


def test_lists_with_attributes_behind_the_name(tmp_path: Path) -> None:
    source = tmp_path / "list"
    source.write_bytes("\ufeffd:a\r\n\n  d:b:c\tn=1  s=x \nd:é".encode())
    assert listed(str(source)) == [File("d", "a"), File("d", "b:c", {"n": 1, "s": "x"}), File("d", "é")]
    for content, problem in (
        (b"d:a\nd", "line 2: 'd'"),
        (b"d:a x", "line 1: 'x'"),
        (b"d:a\nd:\xff", "line 2: not UTF-8"),
    ):
        source.write_bytes(content)
        with pytest.raises(Refusal, match=problem):
            listed(str(source))


def test_json_lists(tmp_path: Path) -> None:
    source = tmp_path / "list"
    source.write_text('["d:a", {"namespace": "a:b", "name": "c", "attributes": {"x": 1}, "size": 3}]')
    assert json_listed(str(source)) == [File("d", "a"), File("a:b", "c", {"x": 1})]
    for content, problem in (
        ('{"a": 1}', "JSON array"),
        ("[", "not JSON"),
        ("[1]", "entry 1: expected"),
        ('["d:a", "d"]', "entry 2: 'd'"),
        ('[{"name": "a"}]', "entry 1: expected"),
        ('[{"namespace": "d", "name": "a", "attributes": [1]}]', "entry 1: expected"),
    ):
        with pytest.raises(ValueError, match=problem):
            file_array(content)


@pytest.mark.parametrize(
    ("words", "read"),
    [
        ("-j 70", "-j 70"),
        ("-j -c site 70", "-j -c site 70"),
        ("-j info.json 70", "-J info.json 70"),
        ("-c site -j info.json 70", "-c site -J info.json 70"),
        ("-j info.json -c site 70", "-J info.json -c site 70"),
        ("-c site 70", "-c site 70"),
    ],
)
def test_j_of_worker_next_with_and_without_a_file(words: str, read: str) -> None:
    assert _file_after_j(words.split()) == read.split()
