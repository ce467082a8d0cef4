"""Login by the password of the site's LDAP server."""

from __future__ import annotations

import structlog

from drayman.auth.v1 import auth_service_pb2 as pb
from drayman.server.auth import names
from drayman.server.auth.ldap_login import DirectoryAway, LdapLogin
from drayman.server.auth.proof import NotProven, Proven, login_refused
from drayman.server.auth.session_store import SessionStore
from drayman.server.platform.calls import Call
from drayman.server.platform.errors import Refusal, invalid
from drayman.server.platform.transport import is_private

log = structlog.get_logger(__name__)

_LONGEST_PASSWORD = 1024


class LdapProof:
    """Checks passwords by a simple bind. `ldap` None = not offered here."""

    guessable = True

    def __init__(self, ldap: LdapLogin | None, sessions: SessionStore, *, plaintext: bool) -> None:
        self._ldap = ldap
        self._sessions = sessions
        self._plaintext = plaintext

    @property
    def offered(self) -> bool:
        """Whether this deployment asks an LDAP server."""
        return self._ldap is not None

    def check_form(self, credential: pb.LdapCredential, call: Call) -> None:
        """Raise Refusal (NOT_OFFERED, TLS_REQUIRED, INVALID_FIELD)."""
        if self._ldap is None:
            raise Refusal("NOT_OFFERED", "no login by LDAP: ldap_url is not set here")
        if not self._plaintext and not is_private(call.context):
            raise Refusal("TLS_REQUIRED", "a password must not travel in plaintext: use TLS")
        for part in ("username", "password"):
            if not getattr(credential, part):
                raise invalid(f"ldap.{part}", f"{part} is missing")
        if len(credential.password) > _LONGEST_PASSWORD:
            raise invalid("ldap.password", f"at most {_LONGEST_PASSWORD} characters")

    async def prove(self, credential: pb.LdapCredential, _call: Call) -> Proven:
        """Ask the LDAP server. Raises NotProven, Refusal (IDENTITY_PROVIDER_AWAY)."""
        assert self._ldap is not None, "check_form comes first"
        if names.problem(credential.username):
            raise NotProven(login_refused(), "no such user")
        registered = await self._sessions.registered(credential.username, "ldap")
        dn = registered[0] if registered else None
        try:
            accepted = await self._ldap.check(credential.username, credential.password, dn)
        except DirectoryAway as error:
            log.warning("LDAP away", error=str(error))  # its text names hosts that strangers need not know
            raise Refusal("IDENTITY_PROVIDER_AWAY", "the LDAP server does not answer", retry_after=5.0) from error
        if not accepted:
            raise NotProven(login_refused(), "refused by LDAP")
        return Proven(credential.username, "ldap", login_refused())
