"""PanDA's client functions, speaking to Drayman: the same names, arguments and results. Here are those for secrets and identity.

    from drayman.pandaclient import Client

    status, (stored, text) = Client.set_user_secret("TOKEN", "...")
    status, (found, secrets) = Client.get_user_secrets()

A function that calls the service returns `(status, payload)`: status 0 if an answer came, 255 with a text if none did, or if the token is
not accepted. What the service thinks of the request is in the payload. Nothing is repeated; a call takes at most 10 minutes. With
`verbose` a function prints what it does, and no secret; the result is the same.

The environment is read at each call:

* PANDA_URL_SSL, else PANDA_URL, else DRAYMAN_URL: where the service is, `grpc://HOST:PORT` or `grpcs://HOST:PORT` for TLS (`http` and
  `https` are taken for these).
* PANDA_AUTH_ID_TOKEN, OIDC_AUTH_TOKEN_FILE, OIDC_AUTH_ID_TOKEN, in this order: the token that calls carry. With PANDA_AUTH=oidc then the
  one that `get_new_token` has cached; then DRAYMAN_TOKEN, and what `drayman login` has kept. A token of another issuer is traded for a
  session token once.
* PANDA_AUTH_VO, else OIDC_AUTH_VO; PANDA_CONFIG_ROOT: see `get_new_token`.

Section numbers in docstrings are those of PanDA's description of behaviour.
"""

from __future__ import annotations

from drayman.pandaclient.device_login import get_new_token
from drayman.pandaclient.identity import get_cert_attributes, get_user_name_from_token
from drayman.pandaclient.server import hello
from drayman.pandaclient.settings import use_oidc, use_x509_no_grid
from drayman.pandaclient.texts import getDN, hide_sensitive_info, is_https, str_decode
from drayman.pandaclient.token_sources import get_token_string
from drayman.pandaclient.user_secrets import (
    get_user_secerts,
    get_user_secrets,
    set_user_secert,
    set_user_secret,
)

__all__ = [
    "getDN",
    "get_cert_attributes",
    "get_new_token",
    "get_token_string",
    "get_user_name_from_token",
    "get_user_secerts",
    "get_user_secrets",
    "hello",
    "hide_sensitive_info",
    "is_https",
    "set_user_secert",
    "set_user_secret",
    "str_decode",
    "use_oidc",
    "use_x509_no_grid",
]
