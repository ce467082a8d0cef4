import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from drayman.server.task import formulas
from drayman.server.task.formulas import FormulaError


@pytest.mark.parametrize(
    ("text", "number", "value"),
    [
        ("#", 7, 7),
        ("#*1000+1", 7, 7001),
        ("(# - 1) // 2", 7, 3),
        ("# / 2", 7, 3.5),
        ("# % 4", 7, 3),
        ("-# + +2", 7, -5),
        ("2 ** #", 7, 128),
        ("# ** -1", 4, 0.25),
        ("(-1) ** #", 10**30 + 1, -1),
        ("1 ** #", 10**30, 1),
        ("0.5 * #", 3, 1.5),
        (" # ", 1.5, 1.5),
    ],
)
def test_arithmetic(text: str, number: float, value: float) -> None:
    result = formulas.parse(text)(number)
    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "x",
        "__import__('os')",
        "open(#)",
        "#()",
        "(1)(2)",
        "#.real",
        "1e9",
        "0x10",
        "1j",
        "##",
        "1#",
        "1 2",
        "(1, 2)",
        "1; 2",
        "1 if # else 2",
        "# < 2",
        "# << 2",
        "~#",
        "#[0]",
        "(",
        "1\n+1",
        "1 " * 101,
        "(" * 150 + "#" + ")" * 49,
        "٣",
    ],
)
def test_anything_else_is_none(text: str) -> None:
    with pytest.raises(FormulaError):
        formulas.parse(text)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1 / #", 0),
        ("1 % #", 0),
        ("0 ** -#", 1),
        ("9 ** 9 ** 9 ** 9", 1),
        ("# ** 99999999", 2),
        ("10 ** #", 10**9),
        ("10.0 ** #", 10**9),
        ("(-8) ** 0.5", 1),
        ("# * #", 2**100),
        ("1" * 60, 1),
    ],
)
def test_no_value_and_huge_ones_are_errors(text: str, number: int) -> None:
    with pytest.raises(FormulaError):
        formulas.parse(text)(number)


@given(st.text("0123456789.+-*/%()# ", max_size=40), st.integers(-(10**9), 10**9))
@example("-" * 199 + "#", 1)
@example("(" * 90 + "#" + ")" * 90, 1)
def test_whatever_is_written_it_has_a_bounded_value_or_is_refused(text: str, number: int) -> None:
    try:
        value = formulas.parse(text)(number)
    except FormulaError:
        return
    assert isinstance(value, int | float)
    assert abs(value) < 2**129 or isinstance(value, float)
