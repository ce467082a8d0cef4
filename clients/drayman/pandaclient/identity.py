"""Who the caller is: by the service, or by what their token says.

PanDA, sections 3.4 and 11 of its behaviour.
"""

from __future__ import annotations

from typing import Any

from drayman.auth.v1 import auth_service_pb2 as pb
from drayman.auth.v1 import auth_service_pb2_grpc
from drayman.pandaclient.calls import FAILED, CallFailed, call
from drayman.pandaclient.token_sources import claims, held_token

_Stub = auth_service_pb2_grpc.AuthServiceStub


def get_cert_attributes(verbose: bool = False) -> tuple[int, Any]:
    """Return who the service takes the caller for: `(0, attributes)`, or `(255, text)`.

    Attributes are `identity` (user name), `role` (`administrator` or `user`), `groups` (names of roles, sorted) and `expiry` (when the
    token expires, in seconds since 1970). They are printed with `verbose`. Section 3.4.
    """

    def ask(stub: _Stub, arguments: dict[str, Any]) -> pb.GetAuthInfoResponse:
        return stub.GetAuthInfo(pb.GetAuthInfoRequest(), **arguments)

    try:
        info = call(_Stub, ask)
    except CallFailed as failure:
        return FAILED, failure.text
    attributes = {
        "identity": info.username,
        "role": "administrator" if info.admin else "user",
        "groups": list(info.roles),
        "expiry": info.expire_time.seconds + info.expire_time.nanos / 1e9,
    }
    if verbose:
        for name, value in attributes.items():
            print(f"{name}={value}")
    return 0, attributes


def get_user_name_from_token() -> tuple[str | None, list[str] | None, str | None]:
    """Return what the token at hand says, unchecked: (full name, groups, user name), or three None. Nobody is asked.

    Each word of the full name is capitalised. A session token has user name and roles only: they stand for all three. Section 3.4.
    """
    try:
        said = claims(held_token() or "")
    except (OSError, ValueError):
        return None, None, None
    name, subject = said.get("name"), said.get("preferred_username", said.get("sub"))
    user = subject if isinstance(subject, str) else None
    full = " ".join(word.capitalize() for word in name.split()) if isinstance(name, str) else user
    if not full:
        return None, None, None
    groups: object = next((said[claim] for claim in ("groups", "wlcg.groups", "roles") if claim in said), None)
    return full, list(map(str, groups)) if isinstance(groups, list) else [], user
