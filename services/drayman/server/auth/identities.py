"""What stands for a user outside: subjects of certificates, LDAP entries, subjects of other issuers. Each is kept in one spelling.

A login looks up the spelling that is made here, so both sides must use the functions of this module.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from drayman.server.auth import distinguished_names
from drayman.server.auth.distinguished_names import DistinguishedName
from drayman.server.auth.foreign_tokens import is_loopback
from drayman.server.platform.errors import invalid

X509 = "x509"
LDAP = "ldap"
TOKEN = "token"  # noqa: S105 - the name of a kind

#: Identities of one user.
MOST = 100

_LONGEST = 2000  # bytes, as the database has it
_TYPE = r"(?:[A-Za-z][A-Za-z0-9-]*|[0-9]+(?:\.[0-9]+)+)"
#: RFC 4514, with the blanks around separators that people write.
_ASSERTION = (
    rf"\s*{_TYPE}\s*=\s*(?:#(?:[0-9A-Fa-f]{{2}})+|"
    r'(?!#)(?:[^\\",;+<>\x00-\x1f\x7f]|\\[ "#+,;<=>\\]|\\[0-9A-Fa-f]{2})*'
    r'(?:[^\s\\",;+<>\x00-\x1f\x7f]|\\[ "#+,;<=>\\]|\\[0-9A-Fa-f]{2}))\s*'
)
_LDAP_DN = re.compile(rf"{_ASSERTION}(?:[,+]{_ASSERTION})*")


@dataclass(frozen=True, slots=True, order=True)
class Identity:
    """An identity in the spelling that is kept: `kind` is X509, LDAP or TOKEN."""

    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"

    @classmethod
    def of(cls, text: str) -> Identity:
        """Read what `str` gives."""
        kind, _, name = text.partition(" ")
        return cls(kind, name)

    @property
    def issuer(self) -> str:
        """The issuer of a TOKEN; it holds no blank."""
        return self.name.partition(" ")[0]

    @property
    def subject(self) -> str:
        """The subject of a TOKEN."""
        return self.name.partition(" ")[2]


def certificate(name: DistinguishedName) -> Identity:
    """Return the identity of the holder of a certificate. Numeric CN parts do not count. Raises ValueError for the empty name."""
    if not name.parts:
        raise ValueError("a distinguished name must not be empty")
    return Identity(X509, str(name.person))


def read_x509(field: str, text: str) -> Identity:
    """Read the subject of a certificate, in either spelling; written root first, as some tools do, it is turned round.

    Raises Refusal (INVALID_FIELD).
    """
    try:
        name = distinguished_names.parse(text)
        # the slash form is root first by definition, and says what it means
        if name.seems_reversed and not text.lstrip().startswith("/"):
            name = DistinguishedName(name.parts[::-1])
        identity = certificate(name)
    except ValueError as error:
        raise invalid(field, str(error), value=_shown(text)) from None
    _require_short(field, identity.name)
    return identity


def read_ldap(field: str, text: str) -> Identity:
    """Read the name of an LDAP entry, which is for the directory to understand: only its form is checked.

    Raises Refusal (INVALID_FIELD).
    """
    _require_short(field, text)  # before the pattern, which takes its time with a novel
    if not _LDAP_DN.fullmatch(text):
        raise invalid(
            field,
            f"{_shown(text)}: expected a distinguished name such as uid=jane,ou=people,dc=example,dc=org",
            value=_shown(text),
        )
    name = text.strip()
    escaped = len(name) - len(name.rstrip("\\")) & 1  # then the blank after it belongs to the value
    return Identity(LDAP, name + " " * escaped)


def read_token(field: str, issuer: str, subject: str) -> Identity:
    """Read a subject of an issuer. Both are kept as they are: tokens must say exactly the same. Raises Refusal (INVALID_FIELD)."""
    if not _is_issuer(issuer):
        raise invalid(
            f"{field}.issuer",
            f"{_shown(issuer)}: expected https://HOST[:PORT][/PATH] as the issuer writes it in its tokens",
            value=_shown(issuer),
        )
    if not subject or not subject.isprintable():
        reason = "a subject has no control characters" if subject else "a subject must not be empty"
        raise invalid(f"{field}.subject", f"{_shown(subject)}: {reason}", value=_shown(subject))
    _require_short(field, f"{issuer} {subject}")
    return Identity(TOKEN, f"{issuer} {subject}")


def require_room(field: str, held: Sequence[Identity]) -> None:
    """Raise Refusal (INVALID_FIELD) if these are more than one user may have."""
    if len(held) > MOST:
        raise invalid(field, f"a user has at most {MOST} identities, these would be {len(held)}", count=len(held))


def _is_issuer(text: str) -> bool:
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return False
    if not text.isascii() or not text.isprintable() or any(character in text for character in ' ?#@\\"<>'):
        return False
    return bool(host) and (parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host)))


def _require_short(field: str, name: str) -> None:
    size = len(name.encode(errors="replace"))
    if size > _LONGEST:
        raise invalid(field, f"at most {_LONGEST} bytes, got {size}", length=size)


def _shown(text: str) -> str:
    """Write a text so that it fits into a status, whatever it is."""
    return ascii(text[:64]) + ("..." if len(text) > 64 else "")
