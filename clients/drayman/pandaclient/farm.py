"""What workers offer, and a register of credentials that users delegate.

PanDA, sections 3.4 and 14 of its behaviour.
"""

from __future__ import annotations

import re
from typing import Any

from drayman.auth.v1 import auth_service_pb2, auth_service_pb2_grpc
from drayman.client.files import moment_of
from drayman.pandaclient import moments
from drayman.pandaclient.calls import FAILED, CallFailed, call, shown
from drayman.task.v1 import farm_service_pb2 as pb
from drayman.task.v1 import farm_service_pb2_grpc

_Stub = farm_service_pb2_grpc.FarmServiceStub
_AuthStub = auth_service_pb2_grpc.AuthServiceStub

#: `software-release@platform`: what follows the software.
_RELEASE = re.compile(r"(-v?\d[^@]*)?(@.*)?$")


def getCachePrefixes(verbose: bool = False) -> list[str]:
    """Return the names of the software caches that workers advertised within the last hour, without release and platform; a bare list.

    It is empty if there are none, or no answer.
    """
    names = {_RELEASE.sub("", name) for offer in _offers("", verbose) for name in offer.software}
    return shown(sorted(filter(None, names)), verbose)


def getCmtConfigList(athenaVer: str, verbose: bool = False) -> list[str]:
    """Return the platforms of workers that advertised a software, as they write it, within the last hour; a bare list.

    It is empty if there are none, or no answer.
    """
    offers = _offers(str(athenaVer), verbose) if athenaVer else []
    return shown(sorted({offer.platform for offer in offers if offer.platform}), verbose)


def registerProxyKey(credname: str, origin: str, myproxy: str, verbose: bool = False) -> tuple[int, bool | None]:
    """Record a credential that the caller delegates: its name, the host it came from, and where it is kept; never its content.

    Returns `(0, True)`, `(0, False)` if the service refuses it, `(255, None)` if there was no answer. The record ends with the token that
    the caller has now.
    """
    request = pb.RegisterCredentialRequest(name=_text(credname), origin=_text(origin), repository=_text(myproxy))

    def ask_end(stub: _AuthStub, arguments: dict[str, Any]) -> auth_service_pb2.GetAuthInfoResponse:
        return stub.GetAuthInfo(auth_service_pb2.GetAuthInfoRequest(), **arguments)

    def ask(stub: _Stub, arguments: dict[str, Any]) -> object:
        return stub.RegisterCredential(request, **arguments)

    try:
        request.expire_time.CopyFrom(call(_AuthStub, ask_end).expire_time)
        call(_Stub, ask)
    except CallFailed as failure:
        if verbose:
            print(failure.text)
        return shown((0, False) if failure.answered else (FAILED, None), verbose)
    return shown((0, True), verbose)


def getProxyKey(verbose: bool = False) -> tuple[int, Any]:
    """Return `(0, {credname, expires, origin, myproxy})`: the caller's record that lasts longest, `(0, {})` if none has not ended.

    `expires` is a text in UTC. `(255, None)` if there was no answer.
    """

    def ask(stub: _Stub, arguments: dict[str, Any]) -> pb.GetCredentialResponse:
        return stub.GetCredential(pb.GetCredentialRequest(), **arguments)

    try:
        found = call(_Stub, ask)
    except CallFailed as failure:
        if verbose:
            print(failure.text)
        return shown((0, {}) if failure.answered else (FAILED, None), verbose)
    if not found.name:
        return shown((0, {}), verbose)
    record = {
        "credname": found.name,
        "expires": moments.written(moment_of(found.expire_time)),
        "origin": found.origin,
        "myproxy": found.repository,
    }
    return shown((0, record), verbose)


def _offers(software: str, verbose: bool) -> list[pb.FarmOffer]:
    def ask(stub: _Stub, arguments: dict[str, Any]) -> list[pb.FarmOffer]:
        return list(stub.ListOffers(pb.ListOffersRequest(software=software), **arguments).offers)

    try:
        return call(_Stub, ask)
    except CallFailed as failure:
        if verbose:
            print(failure.text)
        return []


def _text(value: object) -> str:
    text = "" if value is None else str(value)
    return text.encode(errors="replace").decode()
