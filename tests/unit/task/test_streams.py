from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drayman.server.task.parameter_values import ParameterError, Problems
from drayman.server.task.streams import MAX_STREAMS, parse

LOG = {"type": "template", "param_type": "log", "value": "d.log.${SN}.tgz", "dataset": "d.log/"}


def input_item(value: str = '-i "${IN/T}"', dataset: object = "in", **more: Any) -> dict[str, Any]:
    return {"type": "template", "param_type": "input", "value": value, "dataset": dataset} | more


def output_item(value: str = "out.${SN}.root", dataset: object = "out", **more: Any) -> dict[str, Any]:
    return {"type": "template", "param_type": "output", "value": value, "dataset": dataset} | more


def names(job_parameters: list[Any], log: object = None, **more: Any) -> list[str]:
    return [stream.name for stream in parse(job_parameters, log, **more)[1]]


def refusal(job_parameters: object, log: object = None, **more: Any) -> str:
    with pytest.raises(ParameterError) as refused:
        parse(job_parameters, log, **more)
    return str(refused.value)


def test_constants_declare_nothing() -> None:
    items, streams = parse(
        [{"type": "constant", "value": "-p"}, {"value": 3, "padding": False, "type": "constant"}], None
    )
    assert streams == ()
    assert [(item.value, item.padding, item.stream) for item in items] == [("-p", True, ""), ("3", False, "")]


def test_streams_are_called_as_their_placeholders_are_and_numbered_in_order_with_logs_last() -> None:
    _, streams = parse(
        [input_item(), LOG, output_item(), input_item("${CAVIN/L}"), output_item("b.${SN}.txt")],
        LOG | {"value": "x.${SN}.tgz"},
    )
    assert [(stream.number, stream.name, stream.kind) for stream in streams] == [
        (1, "IN", "input"),
        (2, "OUTPUT0", "output"),
        (3, "CAVIN", "input"),
        (4, "OUTPUT1", "output"),
        (5, "LOG0", "log"),
        (6, "LOG1", "log"),
    ]
    assert [stream.name for stream in streams if stream.primary] == ["IN"]


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("${IN}", "IN"),
        ("-i ${IN2/F} -n ${MAXEVENTS}", "IN2"),
        ("-n ${SKIPEVENTS} -i ${IN[0:2]}", "IN"),
        ("${IN/M[#+1]}", "IN"),
        ("${HOME}/x ${IN3}", "IN3"),
        ("${BHIN}", "BHIN"),
        ("no placeholder", "IN"),
        ("", "IN"),
    ],
)
def test_the_name_of_an_input(value: str, name: str) -> None:
    assert names([input_item(value)]) == [name]


def test_inputs_without_a_placeholder_take_what_is_free() -> None:
    assert names([input_item(""), input_item("${IN3}"), input_item(""), input_item("")]) == ["IN", "IN3", "IN2", "IN4"]


def test_one_placeholder_for_several_streams_declares_the_one_that_is_not_there_yet() -> None:
    assert names([input_item("", hidden=True), input_item("${IN,IN2}")]) == ["IN", "IN2"]


@pytest.mark.parametrize(
    ("value", "template", "on_command_line"),
    [
        ("out.${SN}.root", "out.${SN}.root", "${OUTPUT0}"),
        ("--out=out.${SN/P}.root", "out.${SN/P}.root", "--out=${OUTPUT0}"),
        ("--out='out.${SN}.root'", "out.${SN}.root", "--out='${OUTPUT0}'"),
        ('-o "out.${SN}.root"', "out.${SN}.root", '-o "${OUTPUT0}"'),
        ("user.$JEDITASKID._${SN/P}.a", "user.$JEDITASKID._${SN/P}.a", "${OUTPUT0}"),
    ],
)
def test_the_template_of_an_output_and_what_stands_for_it(value: str, template: str, on_command_line: str) -> None:
    items, streams = parse([output_item(value)], None)
    assert streams[0].value == template
    assert items[0].value == on_command_line
    assert items[0].stream == "OUTPUT0"


def test_what_a_stream_says_is_kept() -> None:
    _, (primary, second, output) = parse(
        [
            input_item(
                dataset="a, b,a", include="*.root,*.txt", exclude=["x"], files=[{"lfn": "f1"}, "f2"], nFiles="3"
            ),
            input_item("${IN2}", "c", ratio="2", reusable="true", random=1, expand=True, container="k/", offset=4),
            output_item(offset="1000", container="out/", allowNoOutput=True, transient=True, hidden=True),
        ],
        None,
    )
    assert (primary.datasets, primary.include, primary.exclude) == (("a", "b"), ("*.root", "*.txt"), ("x",))
    assert (primary.files, primary.n_files) == (("f1", "f2"), 3)
    assert (second.ratio, second.reusable, second.random, second.expand) == (2, True, True, True)
    assert (second.container, second.offset) == ("k/", 4)
    assert (output.offset, output.container, output.allow_no_output, output.transient) == (1000, "out/", True, True)


def test_an_event_ratio_is_a_ratio_rounded_up() -> None:
    assert parse([input_item(), input_item("${IN2}", eventRatio="1.2")], None)[1][1].ratio == 2


@pytest.mark.parametrize(
    ("param_type", "value", "name", "kind"),
    [
        ("number", "${SEQNUMBER}", "SEQNUMBER", "number"),
        ("number", "${RNDMSEED}", "RNDMSEED", "random_seed"),
        ("number", "", "SEQNUMBER", "number"),
        ("random_seed", "--seed ${RNDMSEED}", "RNDMSEED", "random_seed"),
        ("pseudo_input", "-n ${SEQNUMBER}", "SEQNUMBER", "number"),
        ("pseudo_input", "${RNDMSEED}", "RNDMSEED", "random_seed"),
        ("tmpl_output", "o.${SN}", "OUTPUT0", "output"),
    ],
)
def test_streams_of_numbers(param_type: str, value: str, name: str, kind: str) -> None:
    _, (stream,) = parse(
        [{"type": "template", "param_type": param_type, "value": value, "dataset": "d", "num_records": 5, "offset": 2}],
        None,
        no_input=True,
    )
    assert (stream.name, stream.kind, stream.primary, stream.offset) == (name, kind, False, 2)


def test_numbers_that_every_job_has_are_no_stream() -> None:
    items, streams = parse([{"type": "template", "param_type": "number", "value": "${FIRSTEVENT}"}], None)
    assert streams == ()
    assert items[0].value == "${FIRSTEVENT}"


def test_a_pseudo_input_drives_the_splitting_if_it_is_the_first() -> None:
    item = {"type": "template", "param_type": "pseudo_input", "value": "${IN}", "dataset": "pseudo"}
    assert parse([item], None, no_input=True)[1][0].primary
    _, (first, second) = parse([input_item(), item | {"value": "${IN2}"}], None)
    assert (first.kind, first.primary, second.kind, second.primary) == ("input", True, "number", False)


def test_without_an_input_collection_inputs_are_secondary() -> None:
    _, (stream,) = parse([input_item(nFilesPerJob=2)], None, no_input=True)
    assert (stream.kind, stream.primary, stream.files_per_job) == ("input", False, 2)


def test_a_list_of_names_is_the_first_input_or_an_in_that_nobody_declared() -> None:
    _, streams = parse([{"type": "constant", "value": '-i "${IN/T}"'}, output_item()], LOG, no_input=True, listed=True)
    assert [(stream.number, stream.name, stream.kind, stream.primary) for stream in streams] == [
        (1, "IN", "pseudo_input", True),
        (2, "OUTPUT0", "output", False),
        (3, "LOG0", "log", False),
    ]
    _, (stream,) = parse([input_item(dataset=None)], None, no_input=True, listed=True)
    assert (stream.name, stream.kind, stream.primary) == ("IN", "pseudo_input", True)


def test_datasets_are_added_to_their_stream() -> None:
    _, (first, second) = parse([input_item(dataset="a,b"), input_item("${IN2}", "c")], None, added={"IN": ("b", "d")})
    assert (first.datasets, second.datasets) == (("a", "b", "d"), ("c",))


@pytest.mark.parametrize(
    ("job_parameters", "text"),
    [
        ("-i x", "jobParameters is '-i x', not a list of items with type and value"),
        (None, "jobParameters is null, not a list"),
        ({}, "jobParameters is an object, not a list"),
        (["-i"], "jobParameters[0] is '-i', not an object"),
        ([{"type": "constant"}], "jobParameters[0] has no value"),
        ([{"type": "constant", "value": {}}], "jobParameters[0].value is an object, not a text"),
        ([{"type": "constant", "value": "a\0b"}], "jobParameters[0].value is 'a\\x00b', not a text"),
        ([{"type": "konstant", "value": ""}], "jobParameters[0].type is 'konstant', not constant or template"),
        ([{"type": "template", "value": ""}], "jobParameters[0] is a template without param_type"),
        ([input_item(param_type="inptu")], "jobParameters[0].param_type is 'inptu', not one of input, output"),
        ([input_item(dataset=None)], "jobParameters[0].dataset is missing"),
        ([input_item(dataset={"a": 1})], "jobParameters[0].dataset is an object, not a list of texts"),
        ([input_item(nFiles=-1)], "jobParameters[0].nFiles is -1, not a whole number of at least 0"),
        ([input_item(ratio="two")], "jobParameters[0].ratio is 'two', not a whole number"),
        ([input_item(nFilesPerJob=1001)], "at most 1000"),
        ([input_item(hidden="maybe")], "jobParameters[0].hidden is 'maybe', not true or false"),
        ([input_item(files=[{"x": 1}])], "jobParameters[0].files is a list of 1, not a list of names"),
        ([input_item(), input_item()], "jobParameters[1].value declares the stream IN again"),
        ([output_item(), output_item()], "jobParameters[1].value names the file out.${SN}.root again"),
        ([output_item(dataset="a,b")], "jobParameters[0].dataset is 'a,b', not one name"),
        ([output_item("dir/out")], "not a template of a file name"),
        ([output_item("${OUTPUT0}")], "not a template of a file name"),
        ([output_item("")], "not a template of a file name"),
        ([{"type": "template", "param_type": "number", "value": "", "num_records": 200_001}], "at most 200000"),
        ([{"type": "constant", "value": "${IN2}"}], "jobParameters use ${IN2}, and no item declares a stream IN2"),
        ([{"type": "constant", "value": "${SEQNUMBER}"}], "no item declares a stream SEQNUMBER"),
        ([{"type": "constant", "value": ""}] * 10_001, "jobParameters is a list of 10001, not a list of at most 10000"),
        ([input_item(f"${{S{n}}}") for n in range(MAX_STREAMS + 1)], "more than 1000 streams"),
    ],
)
def test_what_cannot_be_declared(job_parameters: object, text: str) -> None:
    assert text in refusal(job_parameters)


def test_a_log_is_checked_as_well() -> None:
    assert refusal([], "tgz").startswith("log is 'tgz', not an object")
    assert "log.dataset is missing" in refusal([], LOG | {"dataset": None})
    assert "log[1] has no value" in refusal([], [LOG, {"dataset": "d"}])
    assert names([], [LOG, LOG | {"value": "other"}]) == ["LOG0", "LOG1"]


def test_a_list_of_names_leaves_no_room_for_another_in() -> None:
    number = {"type": "template", "param_type": "number", "value": "${IN}", "dataset": "d"}
    assert "no other stream can be called IN" in refusal([number], None, listed=True)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["constant", "template"]) | JSON,
        "param_type": st.sampled_from(["input", "output", "log", "number", "pseudo_input", "random_seed"]) | JSON,
        "value": st.sampled_from(["${IN}", "${IN2/T}", "a.${SN}", "--o=${SEQNUMBER}", "${", "${}"]) | JSON,
        "dataset": st.sampled_from(["a", "a,b", ["c"]]) | JSON,
        **dict.fromkeys(["offset", "nFiles", "ratio", "files", "eventRatio", "num_records", "hidden", "include"], JSON),
    },
)


@given(st.lists(FIELDS | JSON, max_size=6) | JSON, FIELDS | JSON, st.booleans(), st.booleans())
def test_whatever_is_declared_is_understood_or_refused(
    job_parameters: object, log: object, no_input: bool, listed: bool
) -> None:
    problems = Problems()
    items, streams = parse(job_parameters, log, no_input=no_input, listed=listed, problems=problems)
    try:
        problems.raise_any()
    except ParameterError:
        return
    assert [stream.number for stream in streams] == list(range(1, len(streams) + 1))
    assert len({stream.name for stream in streams}) == len(streams)
    assert sum(stream.primary for stream in streams) <= 1
    assert {item.stream for item in items} <= {stream.name for stream in streams} | {""}
    assert listed <= any(stream.primary for stream in streams)


@pytest.mark.parametrize("dataset", ["", " ", ",", [], [""]])
@pytest.mark.parametrize("make", [input_item, output_item])
def test_a_dataset_without_a_name_is_missing(make: Any, dataset: object) -> None:
    with pytest.raises(ParameterError, match="dataset is missing"):
        parse([make(dataset=dataset)], None)
