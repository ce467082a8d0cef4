"""Warrants: what lets a worker put one version into the registry on behalf of whoever's job it runs.

The task service writes them, the registry reads them; both know the key of the deployment's services. A warrant names exactly one version
and runs out: somebody who gets hold of one can at most make that version.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from drayman.server.platform.service_identity import ServiceIdentity

#: The call's metadata that carries it.
HEADER = "drayman-warrant"
_PURPOSE = "warrant"


@dataclass(frozen=True, slots=True)
class Warrant:
    """The version that may be made, and the user in whose name."""

    project: str
    asset: str
    version: str
    user: str


def write_warrant(identity: ServiceIdentity, warrant: Warrant, seconds: float) -> str:
    """Return the text of a warrant that is good for so many seconds."""
    return identity.vouch(_PURPOSE, dataclasses.asdict(warrant), seconds)


def read_warrant(identity: ServiceIdentity, text: str) -> Warrant | None:
    """Return what a text lets its bearer do; None if it is no warrant of this deployment, or has run out."""
    claims = identity.vouched(_PURPOSE, text)
    fields = {field.name for field in dataclasses.fields(Warrant)}
    if claims is None or not all(isinstance(claims.get(name), str) for name in fields):
        return None
    return Warrant(**{name: claims[name] for name in fields})
