"""How often a login may be attempted: token buckets. Pure.

An attempt takes a token out of every bucket that it touches before its proof is looked at, or none at all if one of them is empty. One
that succeeds puts them back, so that only failures count, however many run at the same time.

A bucket that is empty has a token again after some seconds, whatever happened before: nobody is locked out for good. Who guesses one
user's password from everywhere empties the bucket that all strangers share, and the user still gets in from where they got in before.
That is the one thing which somebody learns who attempts logins from an address of the user's own; all else is the same for users who
do not exist.
"""

from __future__ import annotations

import hashlib
import ipaddress
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from drayman.server.auth import names

#: For so long a peer is familiar after a login from there.
FAMILIAR_FOR = timedelta(days=30)
#: Levels are sums of fractions: what lacks less than this lacks nothing.
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Limit:
    """A kind of bucket: it holds `burst` tokens and gets `rate` of them per second; `name` is for people."""

    name: str
    burst: float
    rate: float


USER_AT_PEER = Limit("user at peer", 10, 0.1)
PEER = Limit("peer", 100, 1)
USER = Limit("user at unfamiliar peers", 50, 1)
#: What cannot be guessed (certificates, tokens) fails for other reasons, and must not keep a site's users from their passwords.
PROOFS_OF_PEER = Limit("proofs of a peer", 200, 10)
LIMITS = (USER_AT_PEER, PEER, USER, PROOFS_OF_PEER)

#: An empty bucket has a token again after so many seconds at most.
LONGEST_WAIT = max(1 / limit.rate for limit in LIMITS)
#: A bucket that nobody touched for so many seconds is full.
FULL_AFTER = max(limit.burst / limit.rate for limit in LIMITS)


@dataclass(frozen=True, slots=True)
class Bucket:
    """One bucket. `key` (32 bytes) names it without saying whose it is."""

    limit: Limit
    key: bytes


@dataclass(frozen=True, slots=True)
class Content:
    """What was in a bucket `age` seconds ago. It may be more than the bucket holds: what does not fit is lost."""

    bucket: Bucket
    level: float
    age: float

    @property
    def now(self) -> float:
        """Tokens in it by now. A clock that was set back refills nothing."""
        limit = self.bucket.limit
        return min(limit.burst, self.level + limit.rate * max(self.age, 0.0))


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether an attempt may be made.

    `wait` is in seconds, 0 = it may, and `taken` are the buckets and what is left in them; else nothing was taken, and `empty` are those
    in the way.
    """

    wait: float
    taken: tuple[tuple[Bucket, float], ...] = ()
    empty: tuple[Bucket, ...] = ()


def buckets(username: str | None, peer: str) -> list[Bucket]:
    """Return what an attempt touches, in the order of their keys, which is that of locks.

    `username` is as claimed and may be any text; None = the peer's own for proofs that cannot be guessed.
    """
    place = network(peer)
    if username is None:
        return [Bucket(PROOFS_OF_PEER, _key("proofs", place))]
    name = _folded(username)
    touched = [
        Bucket(PEER, _key("peer", place)),
        Bucket(USER_AT_PEER, _key("user at peer", name, place)),
        Bucket(USER, _key("user", name)),
    ]
    return sorted(touched, key=lambda bucket: bucket.key)


def judge(contents: Iterable[Content], *, familiar: bool) -> Verdict:
    """Decide about an attempt; `familiar`: the user logged in from there lately."""
    applied = [content for content in contents if not (familiar and content.bucket.limit is USER)]
    empty = [content for content in applied if content.now < 1 - _ROUNDING]
    if empty:
        wait = max((1 - content.now) / content.bucket.limit.rate for content in empty)
        return Verdict(wait, empty=tuple(content.bucket for content in empty))
    return Verdict(0.0, taken=tuple((content.bucket, max(content.now - 1, 0.0)) for content in applied))


def given_back(bucket: Bucket, *, proved: bool) -> float:
    """Return how many tokens an attempt that costs nothing puts back into a bucket.

    Who has proved to be a user is not guessing there: their bucket at that peer is full again, whatever failed before (a password that
    LDAP did not know, say, before it was tried here).
    """
    return bucket.limit.burst if proved and bucket.limit is USER_AT_PEER else 1.0


def is_familiar(seen: datetime | None, now: datetime) -> bool:
    """Whether a peer is familiar, from which the user last logged in then; None = never."""
    return seen is not None and now - seen <= FAMILIAR_FOR


def network(peer: str) -> str:
    """Return what counts as one peer: an IPv4 address; of IPv6 the /64, all of which one host may own; anything else as it is."""
    try:
        address = ipaddress.ip_address(peer)
    except ValueError:
        return peer
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:  # so a socket for both families calls IPv4: all of it is in one /64
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(address), 64), strict=False))


def _folded(username: str) -> str:
    """Return the same text for all spellings that a directory may take for one name."""
    if len(username) > names.LONGEST:
        return username  # nobody's name
    return " ".join(unicodedata.normalize("NFKC", username).casefold().split())


def _key(*parts: str) -> bytes:
    """Hash texts; each with its length before it, so that no two lists of them are written alike."""
    digest = hashlib.sha256()
    for part in parts:
        encoded = part.encode(errors="surrogatepass")
        digest.update(len(encoded).to_bytes(8, "big") + encoded)
    return digest.digest()
