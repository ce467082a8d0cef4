"""Where to log in: the page that an authentication server has about a virtual organisation, else what the service itself says.

PanDA, section 11 of its behaviour.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import grpc

from drayman.auth.v1 import auth_service_pb2 as pb
from drayman.auth.v1 import auth_service_pb2_grpc
from drayman.client.device_flow import DeviceFlow
from drayman.client.errors import from_rpc_error
from drayman.pandaclient import settings
from drayman.pandaclient.connections import CONNECTIONS
from drayman.pandaclient.token_cache import TokenCache

_SCOPES = ("openid", "profile", "email", "offline_access")
_WLCG_SCOPES = ("wlcg", "wlcg.groups")
_METADATA = "/.well-known/openid-configuration"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_REQUEST_SECONDS = 10.0
_LARGEST_PAGE = 1024 * 1024


class DiscoveryError(Exception):
    """There is no issuer to log in at; the text says why."""


def device_flow(cache: TokenCache) -> DeviceFlow:
    """Return the device flow of the issuer for PANDA_AUTH_VO, or without one of the service. Raises DiscoveryError, DeviceFlowError."""
    organisation = settings.virtual_organisation()
    server = settings.url()
    if organisation and urlsplit(server).scheme == "https":
        return _from_page(_page_of(server, organisation, cache), cache)
    return _from_service(server, organisation)


def _page_of(server: str, organisation: str, cache: TokenCache) -> Mapping[str, Any]:
    """Read the page of an organisation with a role, else without it."""
    whole = organisation.replace(":", ".")
    names = [whole, *([re.split(r"[:.]", organisation)[0]] if "." in whole else [])]
    if not all(map(_NAME.fullmatch, names)):
        raise DiscoveryError("PANDA_AUTH_VO is not the name of a virtual organisation")
    host = urlsplit(server).netloc
    for name in names:
        found = _page(f"https://{host}/auth/{name}_auth_config.json", cache)
        if found is not None:
            return found
    raise DiscoveryError(f"{host} has no page about the virtual organisation {organisation}")


def _from_page(page: Mapping[str, Any], cache: TokenCache) -> DeviceFlow:
    place, client_id = page.get("oidc_config_url"), page.get("client_id")
    if not isinstance(place, str) or not isinstance(client_id, str) or not place.endswith(_METADATA):
        raise DiscoveryError("the page about the virtual organisation names no issuer or no client")
    metadata = _page(place, cache) or {}
    issuer = metadata.get("issuer")
    # what a page says of another issuer is not for us; some have a slash at the end of their name, some have not
    if not isinstance(issuer, str) or issuer.rstrip("/") != place.removesuffix(_METADATA).rstrip("/"):
        raise DiscoveryError(f"{place} is not the metadata of that issuer")
    profile = page.get("token_profile", page.get("profile"))
    wlcg = isinstance(profile, str) and profile.lower().startswith("wlcg")
    secret, audience = page.get("client_secret"), page.get("audience")
    return DeviceFlow(
        issuer,
        client_id,
        (*_SCOPES, *(_WLCG_SCOPES if wlcg else ())),
        client_secret=secret if isinstance(secret, str) else None,
        audience=audience if isinstance(audience, str) else None,
        ca_file=_ca_file(),
    )


def _from_service(server: str, organisation: str | None) -> DeviceFlow:
    try:
        stub = CONNECTIONS.stub(auth_service_pb2_grpc.AuthServiceStub, server)
        options = stub.GetLoginOptions(pb.GetLoginOptionsRequest(), timeout=_REQUEST_SECONDS)
    except grpc.RpcError as error:
        raise DiscoveryError(f"{server} does not say where to log in: {from_rpc_error(error).message}") from None
    except ValueError as error:
        raise DiscoveryError(str(error)) from None
    offered = [each for each in options.token_issuers if each.client_id]
    if not offered:
        raise DiscoveryError(f"{server} offers no login by device code")
    vo = re.split(r"[:.]", organisation)[0].lower() if organisation else ""
    # of several issuers that of the organisation, if its URL says so
    issuer = next((each for each in offered if vo and vo in each.issuer.lower()), offered[0])
    return DeviceFlow(issuer.issuer, issuer.client_id, issuer.scopes or _SCOPES, ca_file=_ca_file())


def _page(url: str, cache: TokenCache) -> dict[str, Any] | None:
    """Return a JSON object by HTTPS; None if there is no such page. Raises DiscoveryError."""
    found = cache.page(url)
    if found is not None:
        return found
    if urlsplit(url).scheme != "https":
        raise DiscoveryError(f"{url} is not https")
    try:
        context = ssl.create_default_context(cafile=_ca_file())
        opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context), _NoRedirects())
        with opener.open(url, timeout=_REQUEST_SECONDS) as response:
            body = response.read(_LARGEST_PAGE + 1)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == http.HTTPStatus.NOT_FOUND:
                return None
            raise DiscoveryError(f"{url}: HTTP status {error.code}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise DiscoveryError(f"{url}: {getattr(error, 'reason', error) or type(error).__name__}") from None
    try:
        page = json.loads(body) if len(body) <= _LARGEST_PAGE else None
    except (ValueError, RecursionError):
        page = None
    if not isinstance(page, dict):
        raise DiscoveryError(f"{url} is no JSON object")
    cache.keep_page(url, page)
    return page


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A page with a client's secret comes from where it belongs."""

    def redirect_request(self, *_: object, **__: object) -> None:
        return None


def _ca_file() -> str | None:
    return os.environ.get("DRAYMAN_CA_FILE") or None
