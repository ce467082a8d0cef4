"""A token issuer of one's own: HTTPS on loopback with its own CA, keys that can be rotated, the device flow, and every way to misbehave."""

import base64
import contextlib
import hmac
import ipaddress
import json
import socket
import ssl
import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, unquote_plus, urlsplit
from uuid import uuid4

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

DISCOVERY = "/.well-known/openid-configuration"
OAUTH_METADATA = "/.well-known/oauth-authorization-server"
JWKS = "/jwks"
DEVICE = "/device"
TOKEN = "/token"
ANY_AUDIENCE = "https://wlcg.cern.ch/jwt/v1/any"

CLIENT_ID = "drayman"
CLIENT_SECRET = "p&ss:w%rd"

#: RSA keys take long to make; tests that need several use these in turn.
_RSA_KEYS: list[rsa.RSAPrivateKey] = []


def rsa_key(number: int = 0) -> rsa.RSAPrivateKey:
    """The same key for the same number, for the whole run."""
    while len(_RSA_KEYS) <= number:
        _RSA_KEYS.append(rsa.generate_private_key(65537, 2048))
    return _RSA_KEYS[number]


def new_key(algorithm: str, number: int = 0) -> PrivateKey:
    if algorithm.startswith(("RS", "PS")):
        return rsa_key(number)
    if algorithm == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    return ec.generate_private_key(
        {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}[algorithm]
    )


def public_pem(key: PrivateKey) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def public_jwk(key: PrivateKey, **members: Any) -> dict[str, Any]:
    if isinstance(key, rsa.RSAPrivateKey):
        jwk = jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    elif isinstance(key, ed25519.Ed25519PrivateKey):
        jwk = jwt.algorithms.OKPAlgorithm.to_jwk(key.public_key(), as_dict=True)
    else:
        jwk = jwt.algorithms.ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    jwk.pop("key_ops", None)
    return {**jwk, **members}


def profile_claims(profile: str) -> dict[str, Any]:
    """What a token of a profile has beyond what all have."""
    return {
        "oidc": {"aud": "drayman"},
        "wlcg": {"wlcg.ver": "1.0", "aud": ANY_AUDIENCE, "scope": "compute.create", "jti": uuid4().hex},
        "scitokens": {"ver": "scitoken:2.0", "aud": "ANY", "scope": "compute.create", "jti": uuid4().hex},
    }[profile]


class Issuer:
    """An issuer that runs while it is used as a context. `path` is what follows the host in its URL.

    `fault` makes the paths in `faulty` (all, if empty) misbehave: `error` (500), `not_found`, `hang`, `drop` (closes the connection),
    `huge` (100 MB), `drip` (a byte now and then), `html`, `elsewhere` (redirect to another host), `plaintext` (redirect to http),
    `circle` (redirect to itself), `moved` (redirect within the host). `lies` is what it says its name is; `overrides` goes over its
    metadata.
    """

    def __init__(self, folder: Path, path: str = "", algorithm: str = "ES256") -> None:
        self.path = path
        self.requests: Counter[str] = Counter()
        self.keys: dict[str, tuple[str, PrivateKey]] = {}
        self.published: list[dict[str, Any]] | None = None
        self.fault = ""
        self.faulty: tuple[str, ...] = ()
        self.faults_left = -1
        self.lies = ""
        self.overrides: dict[str, Any] = {}
        #: Set when a request has arrived that hangs.
        self.hanging = threading.Event()
        #: Bytes of the 100 MB that anybody took.
        self.poured = 0
        self.interval = 5
        self.code_seconds = 600
        self.slow_downs = 0
        #: Forms that were posted, with their path and the Authorization header.
        self.posted: list[tuple[str, dict[str, str], str]] = []
        self._numbers = 0
        self._codes: dict[str, dict[str, Any]] = {}
        self._refresh_tokens: dict[str, str] = {}
        self._released = threading.Event()
        self.ca_file = folder / f"ca-{uuid4().hex[:8]}.pem"
        chain = folder / f"server-{uuid4().hex[:8]}.pem"
        _write_certificates(self.ca_file, chain)
        self._server = _Server(self)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(chain)
        # the handshake is for the thread of the connection, not for the one that accepts
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.origin = f"https://localhost:{self._server.server_port}"
        self.url = self.origin + path
        self.rotate(algorithm)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def release(self) -> None:
        """Let hang no more."""
        self._released.set()

    # keys and tokens

    def rotate(self, algorithm: str = "ES256", key_id: str | None = None) -> str:
        """Begin to sign with a new key; the others stay published. Returns its id."""
        self._numbers += 1
        key_id = key_id or f"key-{self._numbers}"
        self.keys.pop(key_id, None)
        self.keys[key_id] = (algorithm, new_key(algorithm, self._numbers % 3))
        return key_id

    def withdraw(self, key_id: str) -> None:
        """Publish a key no longer."""
        del self.keys[key_id]

    def jwks(self) -> dict[str, Any]:
        if self.published is not None:
            return {"keys": self.published}
        return {"keys": [public_jwk(key, kid=kid, alg=alg, use="sig") for kid, (alg, key) in self.keys.items()]}

    def claims(self, profile: str = "oidc", **claims: Any) -> dict[str, Any]:
        """Claims of a good token; None leaves one out."""
        now = int(time.time())
        every = {
            "iss": self.url,
            "sub": "ada",
            "iat": now,
            "nbf": now,
            "exp": now + 600,
            **profile_claims(profile),
            **claims,
        }
        return {name: value for name, value in every.items() if value is not None}

    def make_token(
        self,
        profile: str = "oidc",
        *,
        key_id: str | None = None,
        header: dict[str, Any] | None = None,
        key: Any = None,
        algorithm: str | None = None,
        **claims: Any,
    ) -> str:
        """Sign a token with the named key, else the last one; `key` and `algorithm` replace it. None leaves a header or a claim out."""
        key_id = key_id or list(self.keys)[-1]
        own_algorithm, own_key = self.keys[key_id]
        headers = {"kid": key_id, "typ": "JWT", "alg": algorithm or own_algorithm, **(header or {})}
        return sign(self.claims(profile, **claims), key if key is not None else own_key, headers)

    # the device flow

    def approve(self, user_code: str, subject: str = "ada") -> None:
        self._codes[user_code] |= {"state": "approved", "subject": subject}

    def deny(self, user_code: str) -> None:
        self._codes[user_code]["state"] = "denied"

    def expire(self, user_code: str) -> None:
        self._codes[user_code]["state"] = "expired"

    def metadata(self) -> dict[str, Any]:
        document = {
            "issuer": self.lies or self.url,
            "jwks_uri": self.url + JWKS,
            "token_endpoint": self.url + TOKEN,
            "device_authorization_endpoint": self.url + DEVICE,
            **self.overrides,
        }
        return {name: value for name, value in document.items() if value is not None}

    def misbehaviour(self, path: str) -> str:
        """What is wrong with the answer to this request."""
        if not self.fault or (self.faulty and path not in self.faulty) or self.faults_left == 0:
            return ""
        self.faults_left -= 1
        return self.fault

    def hang(self) -> None:
        self.hanging.set()
        self._released.wait(60)

    def released(self, seconds: float) -> bool:
        """Wait that long for the end of hanging."""
        return self._released.wait(seconds)

    def answer_post(self, path: str, form: dict[str, str], authorization: str) -> tuple[int, dict[str, Any]]:
        self.posted.append((path, form, authorization))
        problem = _client_problem(form, authorization)
        if problem:
            return 401, {"error": "invalid_client", "error_description": problem}
        if path == DEVICE:
            return 200, self._begin()
        if form.get("grant_type") == "refresh_token":
            return self._refresh(form.get("refresh_token", ""))
        return self._poll(form.get("device_code", ""))

    def _begin(self) -> dict[str, Any]:
        user_code, device_code = uuid4().hex[:8].upper(), uuid4().hex
        self._codes[user_code] = {"device_code": device_code, "state": "pending"}
        return {
            "device_code": device_code,
            "user_code": user_code,
            "verification_uri": self.url + "/activate",
            "verification_uri_complete": f"{self.url}/activate?code={user_code}",
            "expires_in": self.code_seconds,
            "interval": self.interval,
        }

    def _poll(self, device_code: str) -> tuple[int, dict[str, Any]]:
        code = next((code for code in self._codes.values() if code["device_code"] == device_code), None)
        if code is None:
            return 400, {"error": "invalid_grant", "error_description": f"no such code: {device_code}"}
        if self.slow_downs > 0:
            self.slow_downs -= 1
            return 400, {"error": "slow_down"}
        if code["state"] == "approved":
            code["state"] = "used"
            return 200, self._grant(code["subject"])
        errors = {
            "pending": "authorization_pending",
            "denied": "access_denied",
            "expired": "expired_token",
            "used": "invalid_grant",
        }
        return 400, {"error": errors[code["state"]]}

    def _refresh(self, token: str) -> tuple[int, dict[str, Any]]:
        subject = self._refresh_tokens.pop(token, None)
        if subject is None:
            # as MITREid does it
            return 400, {"error": "invalid_grant", "error_description": f"Invalid refresh token: {token}"}
        return 200, self._grant(subject)

    def _grant(self, subject: str) -> dict[str, Any]:
        refresh_token = uuid4().hex
        self._refresh_tokens[refresh_token] = subject
        return {
            "access_token": self.make_token("wlcg", sub=subject),
            "id_token": self.make_token(sub=subject),
            "refresh_token": refresh_token,
            "token_type": "Bearer",
            "expires_in": 600,
        }


def sign(claims: Any, key: Any, headers: dict[str, Any]) -> str:
    """Make a JWT of anything, also of what no library would sign; `none` has an empty signature, and bytes are a secret for HS*."""
    headers = {name: value for name, value in headers.items() if value is not None}
    signed = f"{encode(headers)}.{encode(claims)}"
    algorithm = headers.get("alg")
    if algorithm == "none":
        return signed + "."
    known = isinstance(algorithm, str) and algorithm in jwt.algorithms.get_default_algorithms()
    signer = jwt.get_algorithm_by_name(str(algorithm) if known else "ES256")
    secret = isinstance(key, bytes)
    signature = hmac.digest(key, signed.encode(), "sha256") if secret else signer.sign(signed.encode(), key)
    return f"{signed}.{_base64url(signature)}"


def encode(value: Any) -> str:
    return _base64url(json.dumps(value).encode())


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _client_problem(form: dict[str, str], authorization: str) -> str:
    if form.get("client_id") != CLIENT_ID:
        return "unknown client"
    if authorization:
        name, _, secret = base64.b64decode(authorization.removeprefix("Basic ")).decode().partition(":")
        if (unquote_plus(name), unquote_plus(secret)) != (CLIENT_ID, CLIENT_SECRET):
            return "wrong secret"
    return "" if form.get("client_secret", CLIENT_SECRET) == CLIENT_SECRET else "wrong secret"


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    block_on_close = True

    def __init__(self, issuer: Issuer) -> None:
        self.issuer = issuer
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients go away in the middle; that is what some tests do."""

    def shutdown_request(self, request: Any) -> None:
        with contextlib.suppress(OSError):
            request.shutdown(socket.SHUT_RDWR)
        request.close()


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = 30

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        full, path = self._paths()
        issuer = self.server.issuer
        metadata = (DISCOVERY, "/moved" + DISCOVERY, OAUTH_METADATA)
        if self._misbehaves(path):
            return
        if path in metadata or full == OAUTH_METADATA + issuer.path:
            self._answer(200, issuer.metadata())
        elif path in (JWKS, "/moved" + JWKS):
            self._answer(200, issuer.jwks())
        else:
            self._answer(404, {})

    def do_POST(self) -> None:
        _, path = self._paths()
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        form = {name: values[0] for name, values in parse_qs(body).items()}
        if self._misbehaves(path):
            return
        if path in (DEVICE, TOKEN):
            self._answer(*self.server.issuer.answer_post(path, form, self.headers.get("authorization", "")))
        else:
            self._answer(404, {})

    def _paths(self) -> tuple[str, str]:
        """The path, and what of it follows the issuer's."""
        full = urlsplit(self.path).path
        self.server.issuer.requests[full] += 1
        return full, full.removeprefix(self.server.issuer.path)

    def _misbehaves(self, path: str) -> bool:
        fault = self.server.issuer.misbehaviour(path)
        if not fault or (fault == "moved" and path.startswith("/moved")):
            return False
        self.close_connection = True
        simple = {"error": (500, b"{}"), "not_found": (404, b"{}"), "html": (200, b"<html>Maintenance</html>")}
        places = {
            "elsewhere": f"https://127.0.0.1:{self.server.server_port}{self.path}",
            "plaintext": f"http://localhost:{self.server.server_port}{self.path}",
            "circle": self.path,
            "moved": "/moved" + self.path,
        }
        if fault in simple:
            self._reply(*simple[fault])
        elif fault in places:
            self._reply(302, b"", location=places[fault])
        elif fault in ("huge", "drip"):
            self.send_response(200)
            self.end_headers()
            self._pour() if fault == "huge" else self._drip()
        elif fault == "hang":
            self.server.issuer.hang()
        else:
            assert fault == "drop", fault
        return True

    def _pour(self) -> None:
        for _ in range(1600):  # 100 MB
            self.wfile.write(b" " * 65536)
            self.server.issuer.poured += 65536

    def _drip(self) -> None:
        while not self.server.issuer.released(0.1):
            self.wfile.write(b" ")

    def _answer(self, status: int, document: Any) -> None:
        self._reply(status, json.dumps(document).encode())

    def _reply(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def _write_certificates(ca_file: Path, chain: Path) -> None:
    """A CA, and a server certificate of it for localhost and 127.0.0.1."""
    now = datetime.now(UTC)
    ca_key, server_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"test CA {uuid4().hex[:8]}")])

    def builder(name: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(ca_name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )

    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    ca = (
        builder(ca_name, ca_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    server = (
        builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")]), server_key)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    ca_file.write_bytes(ca.public_bytes(pem))
    private = server_key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    chain.write_bytes(private + server.public_bytes(pem))
