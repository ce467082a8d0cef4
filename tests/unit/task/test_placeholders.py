import re
import shlex
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from drayman.server.task import placeholders
from drayman.server.task.placeholders import PlaceholderError
from drayman.server.task.plan import Item, JobFacts, Stream

OUT = Stream(number=2, name="OUTPUT0", kind="output", value="out.${SN}.root")
FACTS = JobFacts(
    task_id=77,
    serial=5,
    attempt=2,
    inputs={
        "IN": ("data.0001.root", "data.0002.root", "data.0010.root"),
        "IN2": ("x", "y"),
        "IN3": ("41",),
        "IN4": ("a%20b", "c%2Fd"),
        "IN5": (),
    },
    outputs={"OUTPUT0": "out.000005.root", "LOG0": "log.000005.tgz"},
    numbers={"SEQNUMBER": 12, "RNDMSEED": 1012},
    first_event=101,
    skip_events=100,
    max_events=50,
    source_url="https://cache.example",
    library="lib.tgz",
    datasets={"IN": "p/a/", "IN2": "p/b/v"},
)
NAMES = st.lists(st.from_regex(r"[A-Za-z0-9_.,\[\] -]{1,12}", fullmatch=True), min_size=1, max_size=6)
KNOWN = re.compile(r"\$\{(IN|SN|OUTPUT|LOG|SEQNUMBER|RNDMSEED|FIRSTEVENT|SKIPEVENTS|MAXEVENTS|SURL|LIB|ATTEMPTNR)")


def line(text: str, **fields: Any) -> str:
    return placeholders.command_line([Item(value=text)], replace(FACTS, **fields))


def name(template: str, stream: Stream = OUT, **fields: Any) -> str:
    return placeholders.output_name(template, replace(FACTS, **fields), stream)


def expand(text: str) -> list[str]:
    """Read a list of names as a job does."""
    match = re.fullmatch(r"([^\[\],]*)\[([0-9,]+)\]([^\[\],]*)", text)
    if match:
        return [f"{match[1]}{number}{match[3]}" for number in match[2].split(",")]
    return text.split(",")


# the command line


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("", ""),
        ("plain", "plain"),
        ("${IN}", "data.[0001,0002,0010].root"),
        ("-i ${IN/L} -x", "-i data.0001.root,data.0002.root,data.0010.root -x"),
        ("${IN/S}", "data.0001.root data.0002.root data.0010.root"),
        ("${IN2/A}", "'x','y'"),
        ("${IN2/LA}", "'x','y'"),
        ("${IN2/A/S}", "'x' 'y'"),
        ("${IN2/AS}", "'x' 'y'"),
        ('-i "${IN2/T}"', "-i \"['x', 'y']\""),
        ("${IN3/T}", "['41']"),
        ("${IN4/E}", "a b,c/d"),
        ("${IN4}", "a%20b,c%2Fd"),
        ("${IN/F}", "tmpin_p_a"),
        ("${IN2/F}", "tmpin_p_b_v"),
        ("${IN3/F}", "tmpin_IN3"),
        ("${IN,IN2/F}", "tmpin_p_a_p_b_v"),
        ("${IN2}", "x,y"),
        ("${IN2,IN3}", "x,y,41"),
        ("${IN2,IN3/T}", "['x', 'y', '41']"),
        ("${IN3}", "41"),
        ("${IN5}", ""),
        ("${IN5/T}", "[]"),
        ("${IN5/A}", ""),
        ("${IN[0:2]}", "data.[0001,0002].root"),
        ("${IN[1:2]}", "data.0002.root"),
        ("${IN[1]}", "data.0002.root"),
        ("${IN[-1]}", "data.0010.root"),
        ("${IN[:1]}", "data.0001.root"),
        ("${IN[1:]/L}", "data.0002.root,data.0010.root"),
        ("${IN[::2]/L}", "data.0001.root,data.0010.root"),
        ("${IN[0:1],IN2[1:2]/S}", "data.0001.root y"),
        ("${IN[7:9]}", ""),
        ("${IN3/M[#]}", "41"),
        ("${IN3/M[(# - 1) * 1000]}", "40000"),
        ("${IN3/M[# / 2]}", "20.5"),
        ("${OUTPUT0} ${LOG0}", "out.000005.root log.000005.tgz"),
        ("${SN} ${SN/P} ${SN:09d} ${SN:3d}", "5 000005 000000005   5"),
        ("${SEQNUMBER} ${RNDMSEED}", "12 1012"),
        ("${FIRSTEVENT} ${SKIPEVENTS} ${MAXEVENTS}", "101 100 50"),
        ("${SURL}/x ${LIB} ${ATTEMPTNR}", "https://cache.example/x lib.tgz 2"),
        # what stands for nothing stays
        (
            "${HOME} $HOME ${IN ${} ${x y} ${OUTPUT1} ${INSTALL}",
            "${HOME} $HOME ${IN ${} ${x y} ${OUTPUT1} ${INSTALL}",
        ),
        ("${HOME/X} ${A[x]} ${X,IN}", "${HOME/X} ${A[x]} ${X,IN}"),
        ("${MIDDLENAME} $JEDITASKID", "${MIDDLENAME} $JEDITASKID"),
        ("$${IN3}", "$41"),
    ],
)
def test_what_placeholders_stand_for(text: str, made: str) -> None:
    assert line(text) == made


@pytest.mark.parametrize("text", ["${SURL}", "${LIB}", "${RNDMSEED}", "${OUTPUT0}"])
def test_what_has_no_value_stays(text: str) -> None:
    assert line(text, source_url="", library="", numbers={}, outputs={}) == text


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("${IN9}", "no stream IN9"),
        ("${IN9/T}", "no stream IN9"),
        ("${IN9/F}", "no stream IN9"),
        ("${IN,IN9}", "no stream IN9"),
        ("${IN9[0:1]}", "no stream IN9"),
        ("${IN9/M[#]}", "no stream IN9"),
        ("${SEQNUMBER}", "no stream SEQNUMBER"),
        ("${SEQNUMBER/P}", "no /P"),
        ("${IN/X}", "no /X"),
        ("${IN/}", "not understood"),
        ("${IN[x]}", "such as [0:2]"),
        ("${IN[]}", "such as [0:2]"),
        ("${IN[0:2:0]}", "such as [0:2]"),
        ("${IN[99999999999]}", "such as [0:2]"),
        ("${IN[3]}", "the job has 3 inputs"),
        ("${IN IN2}", "not understood"),
        ("${IN/M[#]}", "this one has 3"),
        ("${IN5/M[#]}", "this one has 0"),
        ("${IN6/M[#]}", "named by numbers, not 'x'"),
        ("${IN3/M[os]}", "is no formula"),
        ("${IN3/M[#/0]}", "has no value for 41"),
        ("${IN3/M[9**9**9]}", "has no value"),
        ("${SN:x}", "no format"),
        ("${SN:999d}", "no format"),
        ("${SN:{}}", "no format"),
    ],
)
def test_what_cannot_be_understood_or_is_left_over_is_an_error(text: str, why: str) -> None:
    inputs = {**FACTS.inputs, "IN6": ("x",)}
    if text == "${SN:{}}":  # no placeholder at all: there are no braces in one
        assert line(text) == text
        return
    with pytest.raises(PlaceholderError, match=re.escape(why)):
        line(text, inputs=inputs, numbers={})


def test_a_stream_may_have_any_name() -> None:
    facts: Mapping[str, tuple[str, ...]] = {"DBR": ("db.1", "db.2")}
    assert line("${DBR} ${DBR/T} ${DBR[0:1]}", inputs=facts) == "db.[1,2] ['db.1', 'db.2'] db.1"


@pytest.mark.parametrize(
    ("items", "made"),
    [
        ([], ""),
        ([Item(value="a"), Item(value="b")], "a b"),
        ([Item(value="a", padding=False), Item(value="b"), Item(value="c")], "ab c"),
        ([Item(value="a"), Item(value="h", hidden=True), Item(value="b")], "a b"),
        ([Item(value="a"), Item(value="h", hidden=True)], "a"),
        ([Item(value="h ${IN9}", hidden=True)], ""),
        ([Item(value="a ", padding=False)], "a "),
        ([Item(value="a")] * 3, "a a a"),
    ],
)
def test_items_are_joined_by_blanks(items: list[Item], made: str) -> None:
    assert placeholders.command_line(items, FACTS) == made


def test_the_serial_number_on_the_command_line_has_the_offset() -> None:
    assert line("${SN} ${SN/P}", offset=1000) == "1005 001005"


@given(
    st.lists(
        st.sampled_from(
            [
                *(
                    "${IN}",
                    "${IN/L}",
                    "${IN/T}",
                    "${IN/A/S}",
                    "${IN/F}",
                    "${IN/E}",
                    "${IN[0:1]}",
                    "${IN,IN2}",
                    "${IN2}",
                ),
                *("${OUTPUT0}", "${LOG0}", "${SN}", "${SN/P}", "${SN:04d}", "${SEQNUMBER}", "${RNDMSEED}", "${SURL}"),
                *("${FIRSTEVENT}", "${SKIPEVENTS}", "${MAXEVENTS}", "${LIB}", "${ATTEMPTNR}", " ", "x", "$", "}", "{"),
            ]
        )
    ),
    NAMES,
)
def test_no_known_placeholder_is_left(texts: list[str], names: list[str]) -> None:
    made = line("".join(texts), inputs={"IN": tuple(names), "IN2": ("b",)})
    assert not KNOWN.search(made)


@given(st.text("${}IN2SQE/LTM[]:,# 0", max_size=30))
def test_whatever_is_written_it_is_a_line_or_an_error(text: str) -> None:
    try:
        made = line(text)
    except PlaceholderError:
        return
    assert isinstance(made, str)


# lists of names


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["a"], "a"),
        (["a.1", "a.2"], "a.[1,2]"),
        (["a1b", "a11b"], "a[1,11]b"),
        (["1a1", "1a2"], "1a[1,2]"),
        (["f.001.root", "f.002.root", "f.010.root"], "f.[001,002,010].root"),
        (["f.001.root.1", "f.002.root.1"], "f.[001,002].root.1"),
        # each has the number of an attempt: a job finds no file under a name without it
        (["f.001.root.1", "f.002.root.2"], "f.001.root.1,f.002.root.2"),
        (["a1b1", "a2b2"], "a1b1,a2b2"),
        (["a", "b"], "a,b"),
        (["a", "a"], "a,a"),
        (["a1", "a1"], "a1,a1"),
        (["a1", "a"], "a1,a"),
        (["[1]", "[2]"], "[1],[2]"),
        (["a٣", "a٤"], "a٣,a٤"),
        (["1", "2", "3"], "[1,2,3]"),
        ([], ""),
    ],
)
def test_names_are_written_in_short_where_they_differ_in_digits(names: list[str], text: str) -> None:
    assert placeholders.compact(names) == text


@given(
    st.text("ab1.[", max_size=4),
    st.lists(st.text("0123456789", min_size=1, max_size=4), min_size=1, max_size=6),
    st.text("ab1.]", max_size=4),
)
def test_short_lists_are_the_same_names(head: str, digits: list[str], tail: str) -> None:
    names = [f"{head}{number}{tail}" for number in digits]
    made = placeholders.compact(names)
    assert expand(made) == names
    plain = "[" not in head and "]" not in tail and len(set(names)) > 1
    if plain and not head[-1:].isdigit() and not tail[:1].isdigit():
        assert re.search(r"\[[0-9,]+\]", made)


@given(NAMES)
def test_any_names_are_what_a_list_of_them_expands_to(names: list[str]) -> None:
    assume(not any("," in name or "[" in name for name in names))
    assert expand(placeholders.compact(names)) == names


@given(NAMES)
def test_quoted_lists_are_read_back(names: list[str]) -> None:
    assume(not any("," in name for name in names))
    facts = {"IN": tuple(names)}
    assert shlex.split(line("${IN/A/S}", inputs=facts)) == names
    assert shlex.split(line("${IN/A}", inputs=facts)) == [",".join(names)]
    assert eval(line("${IN/T}", inputs=facts)) == names
    assert eval(shlex.split(line('-i "${IN/T}"', inputs=facts))[1]) == names
    assert line("${IN/L}", inputs=facts).split(",") == names


@pytest.mark.parametrize(
    "bad", ["a'b", 'a"b', "a`id`", "$(id)", "a;b", "a|b", "a&b", "a<b", "a>b", "a\nb", "a\\b", "a\x00"]
)
@pytest.mark.parametrize("form", ["${IN}", "${IN/L}", "${IN/T}", "${IN/A}", "${IN/S}", "${IN/E}"])
def test_names_that_would_be_commands_are_refused(bad: str, form: str) -> None:
    with pytest.raises(PlaceholderError, match="cannot be in a command line"):
        line(form, inputs={"IN": ("good", bad)})


def test_names_that_become_commands_when_they_are_decoded_are_refused() -> None:
    assert line("${IN}", inputs={"IN": ("a%3Bid",)}) == "a%3Bid"
    with pytest.raises(PlaceholderError, match="a;id"):
        line("${IN/E}", inputs={"IN": ("a%3Bid",)})


def test_in_a_file_any_name_may_be() -> None:
    facts = replace(FACTS, inputs={"IN": ("a;b", "c"), "IN2": ("d",)})
    items = [Item(value="-i ${IN/F}"), Item(value="${IN2,IN[0:1]/F}"), Item(value="${IN2/F}", hidden=True)]
    assert placeholders.command_line(items, facts) == "-i tmpin_p_a tmpin_p_b_v_p_a"
    assert placeholders.list_files(items, facts) == {"tmpin_p_a": ("a;b", "c"), "tmpin_p_b_v_p_a": ("d", "a;b")}
    assert placeholders.list_files([Item(value="${IN9/F} ${IN/T} a/b")], facts) == {}


# names of outputs


@pytest.mark.parametrize(
    ("template", "made"),
    [
        ("out.${SN}.root", "out.000005.root"),
        ("out.${SN/P}.root", "out.000005.root"),
        ("out.${SN:09d}.root", "out.000000005.root"),
        ("user.$JEDITASKID._${SN}", "user.77._000005"),
        ("$JEDITASKID.${JEDITASKID}.${SN}", "77.77.000005"),
        ("x$JEDITASKID_${SN}", "x77_000005"),
        ("JEDITASKID.${SN}", "JEDITASKID.000005"),
        ("${MIDDLENAME}.${SN}", "data.0001.000005"),
        ("${SN}.${ATTEMPTNR}.${SEQNUMBER}", "000005.2.12"),
        ("${IN3}.${SN}", "41.000005"),
    ],
)
def test_names_of_outputs(template: str, made: str) -> None:
    assert name(template) == made


@pytest.mark.parametrize(
    ("names", "middle"),
    [(("a.b.root",), "a.b"), (("a.b.root.3",), "a.b"), (("plain",), "plain"), (("x/y.root",), "y"), (("x", "y"), "x")],
)
def test_the_middle_name_is_of_the_first_input(names: tuple[str, ...], middle: str) -> None:
    assert name("o.${MIDDLENAME}.${SN}", inputs={"IN": (), "IN2": names}) == f"o.{middle}.000005"


def test_the_serial_number_in_a_name_has_the_streams_offset() -> None:
    assert name("o.${SN}", replace(OUT, offset=1000)) == "o.001005"
    assert name("o.${SN}", replace(OUT, offset=999_999)) == "o.1000004"


def test_without_a_serial_number_the_first_has_the_name_as_it_is() -> None:
    assert name("result.txt", serial=1) == "result.txt"
    assert name("result.txt", serial=2) == "result.txt.000002"


@given(
    st.lists(
        st.sampled_from(["a", ".", "_", "${SN}", "${SN/P}", "${SN:09d}", "$JEDITASKID", "${MIDDLENAME}"]),
        min_size=1,
        max_size=6,
    ),
    st.integers(0, 10**6),
    st.sets(st.integers(1, 10**7), min_size=2, max_size=5),
)
def test_names_of_different_jobs_differ(texts: list[str], offset: int, serials: set[int]) -> None:
    template = "x" + "".join(texts)
    names = {name(template, replace(OUT, offset=offset), serial=serial) for serial in serials}
    assert len(names) == len(serials)
    assert not any("$" in made for made in names)


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("", "cannot name a file"),
        (".", "cannot name a file"),
        ("..x", "cannot name a file"),
        ("a/${SN}", "cannot name a file"),
        ("a\n${SN}", "cannot name a file"),
        ("a;${SN}", "cannot name a file"),
        ("a $HOME ${SN}", "cannot name a file"),
        ("a\ud800.${SN}", "cannot name a file"),
        ("${IN2/S}/${SN}", "cannot name a file"),
        ("${FOO}.${SN}", "stands for nothing"),
        ("${MIDDLENAME}.${SN}", "has no input"),
        ("${OUTPUT7}.${SN}", "stands for nothing"),
        ("${IN9}.${SN}", "no stream IN9"),
        ("x" * 250 + "${SN}", "255 bytes"),
        ("${SN:z}", "no format"),
    ],
)
def test_names_that_are_none_are_refused(template: str, why: str) -> None:
    inputs = {"IN": ()} if "MIDDLE" in template else FACTS.inputs
    with pytest.raises(PlaceholderError, match=re.escape(why)):
        name(template, serial=1, inputs=inputs)


# speed


def test_the_line_of_a_job_is_made_in_tens_of_microseconds() -> None:
    items = tuple(
        Item(value=value)
        for value in (
            '-j "" --sourceURL ${SURL} -r .',
            '-p "python%20job.py%20${SEQNUMBER}"',
            '-i "${IN/T}" -l ${LIB}',
            "-o \"{'out.root': '${OUTPUT0}'}\" --log ${LOG0}",
            "--first ${FIRSTEVENT} --skip ${SKIPEVENTS} --max ${MAXEVENTS} --sn ${SN}",
        )
    )
    inputs = {"IN": tuple(f"data.{number:06d}.root" for number in range(3))}
    rounds = 2000
    began = time.process_time()
    for serial in range(1, rounds + 1):
        facts = JobFacts(
            task_id=1, serial=serial, attempt=1, inputs=inputs, outputs=FACTS.outputs, numbers=FACTS.numbers
        )
        assert placeholders.command_line(items, facts)
        assert placeholders.output_name("user.ada.$JEDITASKID._${SN}.root", facts, OUT)
    assert (time.process_time() - began) / rounds < 200e-6
