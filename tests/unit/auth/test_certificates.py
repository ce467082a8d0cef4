"""What is said of certificates that a peer presents, with OpenSSL's verdict about real ones."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st
from OpenSSL import SSL

from drayman.server.auth.certificates import (
    PeerCertificate,
    judge,
    open_connection,
    peer_certificate,
    server_context,
    unreadable,
)
from drayman.server.auth.distinguished_names import DistinguishedName, parse
from grid import INDEPENDENT, INHERIT_ALL, LIMITED, Grid, Identity

Present = Callable[[Identity], PeerCertificate]

JANE = parse("/DC=org/DC=grid/O=Site/CN=Jane Doe")


@pytest.fixture(scope="module")
def grid() -> Grid:
    return Grid()


@pytest.fixture(scope="module")
def jane(grid: Grid) -> Identity:
    return grid.user("Jane Doe")


@pytest.fixture(scope="module")
def folder(grid: Grid, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("grid")
    grid.host().write(folder, "host")
    (folder / "root.pem").write_bytes(grid.root_pem)
    return folder


def context_of(folder: Path, authorities: Path | None = None, *, revocation_lists: bool = False) -> SSL.Context:
    files = (folder / "host.pem", folder / "host.key", authorities or folder / "root.pem")
    certificate, key, roots = map(str, files)
    return server_context(certificate, key, roots, revocation_lists=revocation_lists)


@pytest.fixture(scope="module")
def present(folder: Path) -> Present:
    context = context_of(folder)

    def presented(identity: Identity) -> PeerCertificate:
        certificate = shake_hands(context, identity)
        assert certificate is not None
        return certificate

    return presented


def client_context(identity: Identity | None) -> SSL.Context:
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    if identity is not None:
        context.use_certificate(identity.certificate)
        context.use_privatekey(identity.key)
        for issuer in identity.issuers:
            context.add_extra_chain_cert(issuer)
    return context


def shake_hands(context: SSL.Context, identity: Identity | None) -> PeerCertificate | None:
    """Let a client with a certificate and the server agree in memory."""
    client = SSL.Connection(client_context(identity), None)
    client.set_connect_state()
    server = open_connection(context)
    todo = [client, server]
    for _ in range(10):
        for connection in list(todo):
            try:
                connection.do_handshake()
                todo.remove(connection)
            except SSL.WantReadError:
                pass
        for source, target in ((client, server), (server, client)):
            try:
                while True:
                    target.bio_write(source.bio_read(65536))
            except SSL.WantReadError:
                pass
        if not todo:
            return peer_certificate(server)
    raise AssertionError("the handshake does not end")


def test_a_good_certificate(present: Present, jane: Identity) -> None:
    found = present(jane)
    assert (found.problem, found.explanation, found.proxies) == ("", "", 0)
    assert found.subject == found.identity == JANE
    assert str(found.issuer) == "CN=Grid CA,O=Site,DC=grid,DC=org"
    assert found.expires == jane.certificate.not_valid_after_utc


def test_no_certificate(folder: Path) -> None:
    assert shake_hands(context_of(folder), None) is None


@pytest.mark.parametrize("policy", [INHERIT_ALL, LIMITED])
def test_a_proxy_speaks_for_its_owner(present: Present, grid: Grid, jane: Identity, policy: str) -> None:
    proxy = grid.proxy(jane, policy=policy)
    found = present(proxy)
    assert (found.problem, found.explanation, found.proxies) == ("", "", 1)
    assert found.identity == found.issuer == JANE
    assert found.subject.extends(JANE)
    assert found.expires == proxy.certificate.not_valid_after_utc


def test_a_proxy_of_a_proxy_of_a_proxy(present: Present, grid: Grid, jane: Identity) -> None:
    short = grid.proxy(grid.proxy(jane), days=(-1, 0.25))
    found = present(grid.proxy(short))
    assert (found.problem, found.identity, found.proxies) == ("", JANE, 3)
    assert found.expires == short.certificate.not_valid_after_utc


def test_a_proxy_outlives_its_owners_certificate_in_vain(present: Present, grid: Grid) -> None:
    user = grid.user("Soon", days=(-1, 0.1))
    assert present(grid.proxy(user)).expires == user.certificate.not_valid_after_utc


def test_a_proxy_may_have_any_name_but_speaks_for_its_owner_only(present: Present, grid: Grid, jane: Identity) -> None:
    found = present(grid.proxy(jane, name="Admin"))
    assert (found.problem, found.identity) == ("", JANE)


def test_an_intermediate_authority(present: Present, grid: Grid) -> None:
    user = grid.user("Sub User", signer=grid.authority())
    assert present(user).problem == ""
    found = present(grid.proxy(user))
    assert (found.problem, str(found.identity)) == ("", "CN=Sub User,O=Site,DC=grid,DC=org")


def test_an_authority_may_certify_a_number(present: Present, grid: Grid) -> None:
    parts = [[(NameOID.COMMON_NAME, "Grid CA")], [(NameOID.COMMON_NAME, "4711")]]
    found = present(grid.user(parts=parts))
    assert (found.problem, found.proxies) == ("", 0)
    assert found.identity == found.subject == parse("/DC=org/DC=grid/O=Site/CN=Grid CA/CN=4711")


def test_expired(present: Present, grid: Grid) -> None:
    user = grid.user("Old", days=(-10, -2))
    found = present(user)
    end = user.certificate.not_valid_after_utc
    assert found.problem == "expired"
    assert found.explanation == (
        "the certificate CN=Old,O=Site,DC=grid,DC=org (issued by CN=Grid CA,O=Site,DC=grid,DC=org) "
        f"expired on {end:%Y-%m-%d %H:%M:%S} UTC"
    )


def test_an_expired_proxy(present: Present, grid: Grid, jane: Identity) -> None:
    found = present(grid.proxy(jane, days=(-2, -1)))
    assert (found.problem, found.identity) == ("expired", JANE)
    assert found.explanation.startswith("the proxy certificate CN=")


def test_a_proxy_whose_owners_certificate_expired(present: Present, grid: Grid) -> None:
    found = present(grid.proxy(grid.user("Old", days=(-10, -2))))
    assert found.problem == "expired"
    assert found.explanation.startswith("the certificate CN=Old,")


def test_not_yet_valid(present: Present, grid: Grid) -> None:
    found = present(grid.user("Early", days=(1, 2)))
    assert found.problem == "not yet valid"
    assert "is not valid before " in found.explanation


def test_an_unknown_authority(present: Present) -> None:
    other = Grid("Elsewhere")
    for identity in (other.user(), other.proxy(other.user()), other.user(days=(-10, -2))):
        found = present(identity)
        assert found.problem == "untrusted"
        assert "authority that is not trusted here" in found.explanation


def test_an_authority_with_a_trusted_name_but_another_key(present: Present, grid: Grid) -> None:
    found = present(Grid().user())
    assert found.problem == "untrusted"
    assert present(grid.user()).problem == ""


def test_self_signed(present: Present) -> None:
    other = Grid("Elsewhere")
    found = present(other.root)
    assert found.problem == "untrusted"
    assert "is self-signed and not trusted here" in found.explanation


@pytest.mark.parametrize("name", ["12345", "proxy", "Jane Doe"])
def test_a_proxy_that_its_owner_did_not_sign(present: Present, grid: Grid, jane: Identity, name: str) -> None:
    thief = grid.user("Thief")
    found = present(grid.proxy(jane, name=name, signing_key=thief.key))
    assert found.problem == "untrusted"
    assert "was not signed by the issuer that it names" in found.explanation


def test_a_proxys_proxy_that_the_proxy_did_not_sign(present: Present, grid: Grid, jane: Identity) -> None:
    found = present(grid.proxy(grid.proxy(jane), signing_key=grid.user("Thief").key))
    assert found.problem == "untrusted"


def test_a_user_certificate_used_as_an_authority(present: Present, grid: Grid) -> None:
    thief = grid.user("Thief")
    fakes = [
        grid.user("Jane Doe", signer=thief),
        grid.user("Jane Doe", signer=grid.proxy(thief)),
        grid.proxy(grid.user("Jane Doe", signer=thief)),
    ]
    for fake in fakes:
        found = present(fake)
        assert found.problem == "untrusted"
        assert "Thief" in found.explanation or "does not bear" in found.explanation


def test_a_proxy_under_another_ones_name(present: Present, grid: Grid, jane: Identity) -> None:
    proxy = grid.proxy(grid.user("Thief"))
    fake = grid.proxy(replace(proxy, certificate=jane.certificate, key=proxy.key, issuers=()))
    assert present(fake).problem == "untrusted"


def test_a_proxy_without_its_owners_certificate(present: Present, grid: Grid, jane: Identity) -> None:
    found = present(replace(grid.proxy(jane), issuers=()))
    assert (found.problem, found.identity) == ("untrusted", JANE)
    assert "were not sent" in found.explanation


def test_a_proxy_that_allows_no_further_ones(present: Present, grid: Grid, jane: Identity) -> None:
    last = grid.proxy(jane, path_length=0)
    assert present(last).problem == ""
    found = present(grid.proxy(last))
    assert found.problem == "untrusted"
    assert "has more proxies below it than it allows" in found.explanation


@pytest.mark.parametrize("policy", [INDEPENDENT, "1.2.3.4"])
def test_a_proxy_without_its_owners_rights(present: Present, grid: Grid, jane: Identity, policy: str) -> None:
    for proxy in (grid.proxy(jane, policy=policy), grid.proxy(grid.proxy(jane, policy=policy))):
        found = present(proxy)
        assert found.problem == "untrusted"
        assert "does not pass on its owner's rights" in found.explanation


@pytest.mark.parametrize("name", ["proxy", "limited proxy", "1234"])
def test_proxies_of_the_old_kind_are_named_and_refused(present: Present, grid: Grid, jane: Identity, name: str) -> None:
    for proxy in (grid.legacy_proxy(jane, name), grid.legacy_proxy(grid.legacy_proxy(jane, name))):
        found = present(proxy)
        assert (found.problem, found.identity) == ("untrusted", JANE)
        assert "older than RFC 3820" in found.explanation


def test_revocation(folder: Path, grid: Grid, tmp_path: Path) -> None:
    good, bad = grid.user("Good"), grid.user("Bad")
    hashed = grid.write_hashed(tmp_path / "hashed", grid.revocation_list(bad))
    checking = context_of(folder, hashed, revocation_lists=True)
    for identity in (good, grid.proxy(good)):
        found = shake_hands(checking, identity)
        assert found is not None
        assert found.problem == ""
    for identity in (bad, grid.proxy(bad)):
        found = shake_hands(checking, identity)
        assert found is not None
        assert found.problem == "untrusted"
        assert "was revoked by its issuer" in found.explanation
    found = shake_hands(context_of(folder, hashed), bad)
    assert found is not None
    assert found.problem == ""


@pytest.mark.parametrize(("days", "said"), [(None, "no revocation list"), ((-3, -1), "is out of date")])
def test_revocation_that_cannot_be_checked(
    folder: Path, grid: Grid, tmp_path: Path, days: tuple[float, float] | None, said: str
) -> None:
    lists = grid.revocation_list(days=days) if days else b""
    hashed = grid.write_hashed(tmp_path / "hashed", lists)
    found = shake_hands(context_of(folder, hashed, revocation_lists=True), grid.user())
    assert found is not None
    assert found.problem == "untrusted"
    assert said in found.explanation


def test_what_was_not_checked_is_not_trusted(jane: Identity, grid: Grid) -> None:
    found = judge([jane.certificate, grid.root.certificate], [])
    assert found.problem == "untrusted"
    assert judge([jane.certificate, grid.root.certificate], [(0, 1), (0, 0)]).problem == ""


@given(st.lists(st.tuples(st.integers(0, 120), st.integers(0, 5)), max_size=4))
def test_any_finding_is_a_problem(findings: list[tuple[int, int]]) -> None:
    found = judge([_JANE.certificate, _GRID.root.certificate], findings)
    clean = not any(code for code, _ in findings) and (0, 0) in findings
    assert (found.problem == "") == clean == (found.explanation == "")


_GRID = Grid()
_JANE = _GRID.user()


@given(st.binary(max_size=60))
def test_any_proxy_info_gives_a_verdict(info: bytes) -> None:
    extension = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.5.5.7.1.14"), info)
    jane = _JANE.certificate
    name = x509.Name(
        [*jane.subject.rdns, x509.RelativeDistinguishedName([x509.NameAttribute(NameOID.COMMON_NAME, "1")])]
    )
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(jane.subject, name, _JANE.key.public_key(), 1)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .add_extension(extension, critical=True)
        .sign(_JANE.key, jane.signature_hash_algorithm)
    )
    try:
        found = judge([certificate, jane], [(0, 0)])
    except Exception as error:
        found = unreadable(error)
    assert found.problem == "untrusted"


def test_what_cannot_be_read_is_nobodys() -> None:
    found = unreadable(ValueError("secret"))
    assert found.problem == "untrusted"
    assert found.identity == DistinguishedName(())
    assert "secret" not in found.explanation


@pytest.mark.parametrize("name", [b"a\0b/CN=Admin \n\x1b[", b',+=\\";#', b"\xe2\x80\xae\xc2\x85 "])
def test_names_of_any_characters(present: Present, grid: Grid, name: bytes) -> None:
    user = grid.user("Z" * len(name))
    der = user.certificate.public_bytes(serialization.Encoding.DER).replace(b"Z" * len(name), name)
    found = present(replace(user, certificate=x509.load_der_x509_certificate(der)))
    assert found.problem == "untrusted"
    assert str(found.identity).isprintable()
    assert found.explanation.isprintable()


def test_a_name_too_long_for_an_answer_is_nobodys(present: Present, grid: Grid) -> None:
    user = grid.user(parts=[[(NameOID.ORGANIZATIONAL_UNIT_NAME, "x" * 60)]] * 20)
    for identity in (user, grid.proxy(user)):
        found = present(identity)
        assert (found.problem, found.identity) == ("untrusted", DistinguishedName(()))
        assert "cannot be read" in found.explanation


def test_files_that_cannot_be_used_are_named(folder: Path, grid: Grid, tmp_path: Path) -> None:
    host = grid.host()
    other = tmp_path / "other.key"
    other.write_bytes(host.key_pem)
    encrypted = tmp_path / "encrypted.key"
    encrypted.write_bytes(host.encrypted_key_pem())
    certificate, key, roots = (str(folder / name) for name in ("host.pem", "host.key", "root.pem"))
    for files, said in (
        ((str(tmp_path / "none"), key, roots), "none: the server's certificate cannot be read"),
        ((certificate, str(encrypted), roots), "encrypted.key: the server's key is encrypted"),
        ((certificate, certificate, roots), "host.pem: the server's key cannot be read"),
        ((certificate, str(other), roots), "other.key: not the key of"),
        ((certificate, key, str(tmp_path / "none")), "none: authorities cannot be read"),
        ((certificate, key, key), "host.key: authorities cannot be read"),
    ):
        with pytest.raises(ValueError, match=said):
            server_context(*files, revocation_lists=False)


def test_names_of_every_kind_of_part(present: Present, grid: Grid) -> None:
    parts = [
        [(NameOID.ORGANIZATIONAL_UNIT_NAME, "Doe, Jane + Co/x")],
        [(NameOID.COMMON_NAME, "Zoë"), (NameOID.USER_ID, "zoe")],
        [(NameOID.EMAIL_ADDRESS, "zoe@example.org")],
    ]
    identity = grid.user(parts=parts)
    found = present(identity)
    assert str(found.identity) == (
        "emailAddress=zoe@example.org,UID=zoe+CN=Zoë,OU=Doe\\, Jane \\+ Co/x,O=Site,DC=grid,DC=org"
    )
    assert found.identity == parse(identity.certificate.subject.rfc4514_string())
