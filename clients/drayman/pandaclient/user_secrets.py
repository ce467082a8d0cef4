"""Secrets of the caller: texts by key, which their jobs get.

PanDA, sections 3.3 and 8.1 of its behaviour.
"""

from __future__ import annotations

from typing import Any

from drayman.auth.v1 import secret_service_pb2 as pb
from drayman.auth.v1 import secret_service_pb2_grpc
from drayman.pandaclient.calls import FAILED, CallFailed, call

_Stub = secret_service_pb2_grpc.SecretServiceStub


def set_user_secret(key: str | None, value: str | None, verbose: bool = False) -> tuple[int, Any]:
    """Store a secret of the caller; returns `(0, (True, "OK"))`, `(0, (False, text))` or `(255, text)`.

    With `value=None` the secret is removed, whether there was one or not, and with `key=None` all are. An empty key is refused; an empty
    value is stored. Key and value are texts. Sections 3.3 and 8.1.
    """
    request = _request(key, value)
    if isinstance(request, str):
        return 0, (False, request)

    def ask(stub: _Stub, arguments: dict[str, Any]) -> object:
        if isinstance(request, pb.SetSecretRequest):
            return stub.SetSecret(request, **arguments)
        return stub.DeleteSecrets(request, **arguments)

    try:
        call(_Stub, ask)
    except CallFailed as failure:
        result: tuple[int, Any] = (0, (False, failure.text)) if failure.answered else (FAILED, failure.text)
    else:
        result = 0, (True, "OK")
    if verbose:
        print(result)
    return result


def get_user_secrets(verbose: bool = False) -> tuple[int, Any]:
    """Return the caller's secrets: `(0, (True, {key: value}))`, `(0, (False, text))` or `(255, text)`. Sections 3.3 and 8.1."""

    def ask(stub: _Stub, arguments: dict[str, Any]) -> dict[str, str]:
        return {found.key: found.value for found in stub.ListSecrets(pb.ListSecretsRequest(), **arguments)}

    try:
        found = call(_Stub, ask)
    except CallFailed as failure:
        if verbose:
            print(failure.text)
        return (0, (False, failure.text)) if failure.answered else (FAILED, failure.text)
    if verbose:
        print(f"{len(found)} secrets")
    return 0, (True, found)


#: The names of the same functions in PanDA's older clients.
set_user_secert = set_user_secret
get_user_secerts = get_user_secrets


def _request(key: str | None, value: str | None) -> pb.SetSecretRequest | pb.DeleteSecretsRequest | str:
    """Return the request, or why there is none."""
    if key is None:
        return pb.DeleteSecretsRequest(all=True)
    if any(not isinstance(each, str) for each in (key, value) if each is not None):
        return "key and value must be texts"
    if not key:
        return "the key must not be empty"
    try:
        if value is None:
            return pb.DeleteSecretsRequest(key=key)
        return pb.SetSecretRequest(key=key, value=value)
    except ValueError:  # half of a surrogate pair
        return "key and value must be Unicode texts"
