"""Hypothesis strategies for messages: made from descriptors, so that a field added tomorrow is fuzzed tomorrow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st

Texts = Mapping[str, st.SearchStrategy[str]]

_WIDTHS = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}
#: What breaks parsers, databases, terminals and logs.
NASTY = (
    "",
    "\0",
    "a\0b",
    " ",
    "\r\n",
    "\x1b[2J\x07",
    "\u202egnol\u202c",
    "\u200b\ufeff",
    "\ufffe\uffff",
    "e\u0301" * 300,
    "\U0010ffff" * 70,
    "\ufdfa" * 300,
    "İıſß",
    "../../etc/passwd",
    "' OR '1'='1' --",
    "%00%n%s{0}{username}",
    "*)(uid=*))(|(uid=*",
    "[" * 12_000,
    '{"alg":"none"}',
    "١٢٣",
    "-0",
    "NaN",
    "٠" * 32,
    "x" * 256,
    "é" * 1001,
    "long " * 40_000,
)
_DEPTH = 3
_SMALL = 200

texts = st.one_of(st.sampled_from(NASTY), st.text(max_size=40), st.text(alphabet="aA0=_-./:+ ", max_size=80))


def messages(descriptor: Descriptor, known: Texts) -> st.SearchStrategy[Message]:
    """Messages of a type. `known` has texts that are right for fields of that name, and is used for most of them."""
    return _messages(descriptor, known, _DEPTH)


def _messages(descriptor: Descriptor, known: Texts, depth: int) -> st.SearchStrategy[Message]:
    if descriptor.full_name in ("google.protobuf.Timestamp", "google.protobuf.Duration"):
        return _spans(descriptor)
    make = GetMessageClass(descriptor)
    fields = [field for field in descriptor.fields if depth or field.message_type is None]
    values = [_values(field, known, depth) for field in fields]

    @st.composite
    def filled(draw: st.DrawFn) -> Message:
        message = make()
        chosen = draw(st.integers(0, 2 ** len(fields) - 1) | st.just(2 ** len(fields) - 1))
        # of a oneof the last that is set stays
        for number in range(len(fields)) if draw(st.booleans()) else reversed(range(len(fields))):
            if chosen >> number & 1:
                _set(message, fields[number], draw(values[number]))
        return message

    return filled()


def _set(message: Message, field: FieldDescriptor, value: Any) -> None:
    if field.is_repeated:
        getattr(message, field.name).extend(value)
    elif field.message_type is not None:
        getattr(message, field.name).CopyFrom(value)
    else:
        setattr(message, field.name, value)


def _values(field: FieldDescriptor, known: Texts, depth: int) -> st.SearchStrategy[Any]:
    one = _value(field, known, depth)
    if not field.is_repeated:
        return one
    return st.one_of(st.lists(one, max_size=3), one.map(_many))


def _many(value: Any) -> list[Any]:
    """The same over and over; of what is large as it is, twice is enough."""
    size = value.ByteSize() if isinstance(value, Message) else len(str(value))
    return [value] * (150 if size < _SMALL else 2)


def _value(field: FieldDescriptor, known: Texts, depth: int) -> st.SearchStrategy[Any]:
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_MESSAGE:
            return _messages(field.message_type, known, depth - 1)
        case FieldDescriptor.CPPTYPE_STRING if field.type == FieldDescriptor.TYPE_BYTES:
            return st.binary(max_size=100) | st.sampled_from([b"", b"\0" * 8, b"x" * 100_000])
        case FieldDescriptor.CPPTYPE_STRING:
            right = known.get(field.name, texts)
            return st.sampled_from([right, right, right, texts]).flatmap(lambda chosen: chosen)
        case FieldDescriptor.CPPTYPE_BOOL:
            return st.booleans()
        case FieldDescriptor.CPPTYPE_ENUM:  # open: also numbers that no name has
            numbers = [value.number for value in field.enum_type.values]
            return st.sampled_from([*numbers, -1, 99, 2**31 - 1, -(2**31)])
        case FieldDescriptor.CPPTYPE_FLOAT | FieldDescriptor.CPPTYPE_DOUBLE:
            return st.floats(width=32)
        case _:
            low, high = _WIDTHS[field.cpp_type]
            return st.sampled_from([low, high, 0, 1]) | st.integers(low, high)


def _spans(descriptor: Descriptor) -> st.SearchStrategy[Message]:
    """Times and durations: also such as nobody can write down."""
    edges = [-(2**63), 2**63 - 1, 0, -1, 253_402_300_799, 253_402_300_800, -62_135_596_800, -62_135_596_801]
    seconds = st.sampled_from(edges) | st.integers(-(2**63), 2**63 - 1) | st.integers(-10, 10**8)
    nanos = st.sampled_from([0, 1, -1, 999_999_999, 2**31 - 1, -(2**31)])
    return st.builds(GetMessageClass(descriptor), seconds=seconds, nanos=nanos)


def mutated_texts(original: str) -> st.SearchStrategy[str]:
    """A text that was right, and is not any more; or, at times, still is."""
    place = st.integers(0, max(len(original) - 1, 0))
    return st.one_of(
        st.just(original),
        place.map(lambda at: original[:at]),
        place.map(lambda at: original[:at] + chr(ord(original[at]) ^ 1) + original[at + 1 :]),
        st.tuples(place, texts).map(lambda cut: original[: cut[0]] + cut[1] + original[cut[0] :]),
        st.sampled_from([original.swapcase(), original * 2, original + "=", " " + original, original[::-1]]),
    )


def mutated_bytes(original: bytes) -> st.SearchStrategy[bytes]:
    """An encoded message with some of its bytes changed, lost or added."""
    edit = st.tuples(st.integers(0, max(len(original), 1) - 1), st.binary(max_size=3), st.integers(0, 3))

    def apply(edits: list[tuple[int, bytes, int]]) -> bytes:
        encoded = original
        for at, put, lost in edits:
            encoded = encoded[:at] + put + encoded[at + lost :]
        return encoded

    return st.lists(edit, min_size=1, max_size=4).map(apply)
