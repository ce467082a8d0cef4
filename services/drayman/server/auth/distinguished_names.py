"""Distinguished names: read in both spellings, compared, and written in one form.

The form under which a name is kept and shown is that of RFC 4514: `CN=Jane Doe,O=Site,DC=grid,DC=org`. The slash form that grid tools
print has no escapes: `/O=Site/CN=a/CN=b` may be three parts or two, so that somebody with an oddly certified name could pass for another.
Names are compared part by part, never as text, and values exactly: authorities may certify two people as `Jane Doe` and `JANE DOE`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

#: What an attribute holds: a text, or the DER of a value that is none.
Value = str | bytes
#: Attribute type (dotted OID) and value.
Attribute = tuple[str, Value]

COMMON_NAME = "2.5.4.3"

_LONGEST = 4096
_MOST_PARTS = 64

# Types by OID; the first name is the one that is written.
_TYPES = {
    COMMON_NAME: ("CN", "commonName"),
    "2.5.4.4": ("SN", "surname"),
    "2.5.4.5": ("serialNumber",),
    "2.5.4.6": ("C", "countryName"),
    "2.5.4.7": ("L", "localityName"),
    "2.5.4.8": ("ST", "stateOrProvinceName", "S"),
    "2.5.4.9": ("STREET", "streetAddress"),
    "2.5.4.10": ("O", "organizationName"),
    "2.5.4.11": ("OU", "organizationalUnitName"),
    "2.5.4.12": ("title", "T"),
    "2.5.4.13": ("description",),
    "2.5.4.15": ("businessCategory",),
    "2.5.4.17": ("postalCode",),
    "2.5.4.41": ("name",),
    "2.5.4.42": ("GN", "givenName", "G"),
    "2.5.4.43": ("initials",),
    "2.5.4.44": ("generationQualifier",),
    "2.5.4.45": ("x500UniqueIdentifier",),
    "2.5.4.46": ("dnQualifier", "DNQ"),
    "2.5.4.65": ("pseudonym",),
    "2.5.4.97": ("organizationIdentifier",),
    "0.9.2342.19200300.100.1.1": ("UID", "userId"),
    "0.9.2342.19200300.100.1.3": ("mail", "rfc822Mailbox"),
    "0.9.2342.19200300.100.1.25": ("DC", "domainComponent"),
    "1.2.840.113549.1.9.1": ("emailAddress", "E", "Email"),
    "1.2.840.113549.1.9.2": ("unstructuredName",),
}
_OIDS = {name.lower(): oid for oid, names in _TYPES.items() for name in names}
#: Types at the root of a name, and those at its other end.
_ROOTS = frozenset(_OIDS[name] for name in ("c", "dc", "o"))
_ENDS = frozenset(_OIDS[name] for name in ("cn", "uid", "e"))

_TYPE = r"(?:[Oo][Ii][Dd]\.)?(?:[A-Za-z][A-Za-z0-9-]*|[0-9]+(?:\.[0-9]+)+)"
_TYPE_AND_EQUALS = re.compile(rf"\s*({_TYPE})\s*=[ ]*")
_SLASHED_TYPE = re.compile(rf"({_TYPE})\s*=")
_HEX_VALUE = re.compile(r"#((?:[0-9A-Fa-f]{2})+)\s*")
_HEX_PAIR = re.compile(r"[0-9A-Fa-f]{2}")
# In the slash form: an escape, a separator, or any character.
_SLASH_PIECE = re.compile(rf"\\x[0-9A-Fa-f]{{2}}|\\[/+\\]|[/+](?={_TYPE}\s*=)|.", re.DOTALL)
_SLASH_ESCAPE = re.compile(r"\\x([0-9A-Fa-f]{2})|\\([/+\\])")
_AMBIGUOUS = re.compile(rf"[/+](?={_TYPE}\s*=)|\\|^#|^\s|\s$")

# DER tags of strings.
_ENCODINGS = {
    0x0C: "utf-8",
    0x12: "ascii",
    0x13: "ascii",
    0x14: "latin-1",
    0x16: "ascii",
    0x1A: "ascii",
    0x1C: "utf-32-be",
    0x1E: "utf-16-be",
}


@dataclass(frozen=True, slots=True)
class DistinguishedName:
    """A name from the root on: parts (RDNs), each of one or more attributes.

    `str()` gives the form of RFC 4514; "" for the name without parts, which some certificates have.
    """

    parts: tuple[tuple[Attribute, ...], ...]

    @classmethod
    def of(cls, parts: Iterable[Iterable[Attribute]]) -> DistinguishedName:
        """Make a name from its parts; the order of attributes within one means nothing."""
        return cls(tuple(tuple(sorted(part, key=_attribute_order)) for part in parts))

    def __str__(self) -> str:
        return ",".join("+".join(_write(attribute) for attribute in part) for part in reversed(self.parts))

    @property
    def slashed(self) -> str:
        """The slash form, for display; what would be read otherwise than meant is escaped."""
        return "".join("/" + "+".join(_write_slashed(attribute) for attribute in part) for part in self.parts)

    @property
    def seems_reversed(self) -> bool:
        """True if it starts with what others end with: a comma form written root first, as some tools print it."""
        if len(self.parts) < 2:
            return False
        first, last = self.parts[0], self.parts[-1]
        return any(kind in _ENDS for kind, _ in first) and any(kind in _ROOTS for kind, _ in last)

    @property
    def person(self) -> DistinguishedName:
        """The name without numeric CN parts: those of proxies, and those with which some authorities number people.

        If nothing but numbers names the holder, the first number stays.
        """
        names = [part for part in self.parts if any(kind == COMMON_NAME for kind, _ in part)]
        kept = [part for part in names if not _is_numeric(part)] or names[:1]
        return DistinguishedName(tuple(part for part in self.parts if part not in names or part in kept))

    def extends(self, other: DistinguishedName) -> bool:
        """Tell whether this name is the other one with further parts at its end."""
        return len(self.parts) > len(other.parts) and self.parts[: len(other.parts)] == other.parts


def parse(text: str) -> DistinguishedName:
    """Read a name as people write it: `/DC=org/.../CN=Jane Doe`, or `CN=Jane Doe,...,DC=org` (RFC 4514, also with `;` and quotes).

    Raises ValueError that says what is wrong.
    """
    text = text.lstrip()  # not at the end: a space there may be escaped
    if not text:
        raise ValueError("a distinguished name must not be empty")
    if len(text) > _LONGEST:
        raise ValueError(f"a distinguished name has at most {_LONGEST} characters, this one has {len(text)}")
    if any("\ud800" <= character <= "\udfff" or character == "\0" for character in text):
        raise ValueError("a distinguished name must not contain NUL or characters that are none")
    parts = list(_parse_slashed(text)) if text.startswith("/") else list(_parse_commas(text))[::-1]
    if len(parts) > _MOST_PARTS:
        raise ValueError(f"a distinguished name has at most {_MOST_PARTS} parts, this one has {len(parts)}")
    return DistinguishedName.of(parts)


def matches(registered: DistinguishedName, identity: DistinguishedName) -> bool:
    """Tell whether a certificate's identity is the registered one. Numeric CN parts are ignored; the empty name matches nothing."""
    return bool(registered.parts) and registered.person == identity.person


def _is_numeric(part: tuple[Attribute, ...]) -> bool:
    kind, value = part[0]
    return len(part) == 1 and kind == COMMON_NAME and isinstance(value, str) and value.isascii() and value.isdecimal()


def _attribute_order(attribute: Attribute) -> tuple[str, bool, bytes]:
    kind, value = attribute
    return kind, isinstance(value, bytes), value.encode() if isinstance(value, str) else value


# --- reading


def _parse_slashed(text: str) -> Iterator[list[Attribute]]:
    part: list[tuple[str, list[str]]] = []
    for match in _SLASH_PIECE.finditer(text):
        piece = match.group()
        if piece in "/+" and (begins := _SLASHED_TYPE.match(text, match.end())):
            if piece != "+":
                if part:
                    yield [_slashed_attribute(kind, "".join(pieces)) for kind, pieces in part]
                part = []
            elif not begins.group(1)[-1].isdigit() and begins.group(1).lower() not in _OIDS:
                part[-1][1].append(piece)
                continue
            part.append((begins.group(1), []))
        elif not part:
            raise ValueError(f"{_shown(text)}: expected TYPE=VALUE after the first slash")
        else:
            part[-1][1].append(piece)
    if part:
        yield [_slashed_attribute(kind, "".join(pieces)) for kind, pieces in part]


def _slashed_attribute(kind: str, raw: str) -> Attribute:
    # `raw` still has type and equals sign before the value
    value = raw.partition("=")[2].strip()
    if match := _HEX_VALUE.fullmatch(value):
        return _oid(kind), _from_der(bytes.fromhex(match.group(1)), kind)
    content, end = bytearray(), 0
    for match in _SLASH_ESCAPE.finditer(value):
        content += value[end : match.start()].encode()
        content += bytes.fromhex(match.group(1)) if match.group(1) else match.group(2).encode()
        end = match.end()
    content += value[end:].encode()
    return _oid(kind), _text(content, kind)


def _parse_commas(text: str) -> Iterator[list[Attribute]]:
    part: list[Attribute] = []
    position = 0
    while True:
        begins = _TYPE_AND_EQUALS.match(text, position)
        if not begins:
            raise ValueError(f"expected TYPE=VALUE at {_shown(text[position:])}")
        kind = begins.group(1)
        value, position = _comma_value(text, begins.end(), kind)
        part.append((_oid(kind), value))
        if position == len(text):
            yield part
            return
        separator = text[position]
        if separator not in ",;+":
            raise ValueError(f"expected a comma at {_shown(text[position:])}")
        if separator != "+":
            yield part
            part = []
        position += 1


def _comma_value(text: str, position: int, kind: str) -> tuple[Value, int]:
    if text.startswith("#", position):
        match = _HEX_VALUE.match(text, position)
        if not match:
            raise ValueError(f"{kind}: expected pairs of hexadecimal digits after #")
        return _from_der(bytes.fromhex(match.group(1)), kind), match.end()
    quoted = text.startswith('"', position)
    position += quoted
    content, kept = bytearray(), 0
    while position < len(text):
        character = text[position]
        if character == "\\":
            escaped, position = _escaped(text, position, kind)
            content += escaped
            kept = len(content)
            continue
        if character == '"' and quoted:
            end = position + 1
            return _text(content, kind), end + len(text[end:]) - len(text[end:].lstrip())
        if not quoted and character in ",;+":
            break
        if not quoted and character in '"<>':
            raise ValueError(f"{kind}: {character} must be written as \\{character}")
        content += character.encode()
        if quoted or not character.isspace():
            kept = len(content)
        position += 1
    if quoted:
        raise ValueError(f"{kind}: the closing quote is missing")
    return _text(content[:kept], kind), position


def _escaped(text: str, position: int, kind: str) -> tuple[bytes, int]:
    if match := _HEX_PAIR.match(text, position + 1):
        return bytes.fromhex(match.group()), match.end()
    character = text[position + 1 : position + 2]
    if character and character in '"+,;<>\\ #=/':
        return character.encode(), position + 2
    raise ValueError(f"{kind}: nothing to escape after the backslash at {_shown(text[position:])}")


def _oid(kind: str) -> str:
    name = kind[4:] if kind[:4].lower() == "oid." else kind
    if name[0].isdigit():
        if len(name) > 100:
            raise ValueError(f"{_shown(name)}: too long an object identifier")
        return ".".join(number.lstrip("0") or "0" for number in name.split("."))
    oid = _OIDS.get(name.lower())
    if oid is None:
        raise ValueError(
            f"{_shown(name)} is no attribute type known here: write its number, or in the form with commas if it is in a value"
        )
    return oid


def _text(content: bytes | bytearray, kind: str) -> str:
    if not content:
        raise ValueError(f"{kind} has no value")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise ValueError(f"{kind}: its escaped bytes are not UTF-8") from None


def _from_der(der: bytes, kind: str) -> Value:
    length, start = (der[1], 2) if len(der) > 1 else (-1, 0)
    if length & 0x80 and 0x80 < length <= 0x83:
        start = 2 + (length & 0x7F)
        length = int.from_bytes(der[2:start])
    if length != len(der) - start:
        raise ValueError(f"{kind}: the hexadecimal value is no DER")
    try:
        text = der[start:].decode(_ENCODINGS.get(der[0], "undefined"))
    except UnicodeError:
        return der
    return text or der


# --- writing


def _write(attribute: Attribute) -> str:
    kind, value = attribute
    name = _TYPES.get(kind, (kind,))[0]
    if isinstance(value, bytes):
        return f"{name}=#{value.hex()}"
    last = len(value) - 1
    return f"{name}=" + "".join(
        _escape(character, index in (0, last), index == 0) for index, character in enumerate(value)
    )


def _escape(character: str, outermost: bool, first: bool) -> str:
    if character in '"+,;<>\\' or (first and character == "#"):
        return f"\\{character}"
    if _is_invisible(character) or (outermost and character.isspace()):
        return "".join(f"\\{byte:02x}" for byte in character.encode(errors="replace"))
    return character


def _write_slashed(attribute: Attribute) -> str:
    kind, value = attribute
    name = _TYPES.get(kind, (kind,))[0]
    if isinstance(value, bytes):
        return f"{name}=#{value.hex()}"
    marked = _AMBIGUOUS.sub(lambda match: _byte_escapes(match.group()), value)
    return f"{name}=" + "".join(
        _byte_escapes(character) if _is_invisible(character) else character for character in marked
    )


def _byte_escapes(text: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in text.encode(errors="replace"))


def _is_invisible(character: str) -> bool:
    return character != " " and not character.isprintable()


def _shown(text: str) -> str:
    """Write a text so that it fits into a message, whatever it is."""
    return ascii(text[:64]) + ("..." if len(text) > 64 else "")
