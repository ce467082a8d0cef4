import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drayman.client import digest as rfc7616
from drayman.server.auth import digest
from drayman.server.auth.digest import Secret

ALGORITHM = st.sampled_from(list(digest.ALGORITHMS))
TEXT = st.text(st.characters(codec="utf-8"), max_size=30)


@given(TEXT, TEXT, TEXT, TEXT, TEXT, ALGORITHM)
def test_whoever_knows_the_password_proves_it(
    username: str, realm: str, password: str, nonce: str, cnonce: str, algorithm: str
) -> None:
    ha1 = rfc7616.ha1(username, realm, password, algorithm)
    response = rfc7616.response(ha1, nonce, cnonce, algorithm)
    rspauth = rfc7616.rspauth(ha1, nonce, cnonce, algorithm)
    assert digest.prove(ha1, nonce, cnonce, algorithm, response) == rspauth
    assert rspauth != response


@given(TEXT, TEXT, ALGORITHM)
def test_whoever_knows_another_password_does_not(password: str, other: str, algorithm: str) -> None:
    stored = rfc7616.ha1("ada", "drayman", password, algorithm)
    response = rfc7616.response(rfc7616.ha1("ada", "drayman", other, algorithm), "n", "c", algorithm)
    assert bool(digest.prove(stored, "n", "c", algorithm, response)) is (password == other)


@given(TEXT, ALGORITHM)
def test_nothing_proves_the_password_of_nobody(response: str, algorithm: str) -> None:
    assert digest.prove(None, "n", "c", algorithm, response) == ""


def test_the_arithmetic_is_that_of_the_contract() -> None:
    def h(*parts: str) -> str:
        return hashlib.sha256(":".join(parts).encode()).hexdigest()

    uri = "/drayman.auth.v1.AuthService/Login"
    ha1 = h("ada", "drayman", "secret")
    response = h(ha1, "nonce", "00000001", "cnonce12", "auth", h("POST", uri))
    rspauth = h(ha1, "nonce", "00000001", "cnonce12", "auth", h("", uri))
    assert digest.prove(ha1, "nonce", "cnonce12", "SHA-256", response) == rspauth


@pytest.mark.parametrize(
    ("secret", "part"),
    [
        (Secret("SHA-256", "drayman", "0a" * 32), ""),
        (Secret("MD5", "drayman", "0a" * 16), ""),
        (Secret("", "drayman", "0a" * 32), "algorithm"),
        (Secret("sha-256", "drayman", "0a" * 32), "algorithm"),
        (Secret("SHA-256", "metacat", "0a" * 32), "realm"),
        (Secret("MD5", "metacat", "0a" * 16), "realm"),
        (Secret("SHA-256", "drayman", "0A" * 32), "ha1"),
        (Secret("SHA-256", "drayman", "0a" * 16), "ha1"),
        (Secret("MD5", "drayman", "0a" * 16 + "\n"), "ha1"),
        (Secret("MD5", "drayman", "password"), "ha1"),
    ],
)
def test_what_may_be_stored(secret: Secret, part: str) -> None:
    assert digest.problem(secret, "drayman")[0] == part


def test_a_refused_realm_names_the_setting() -> None:
    assert "DRAYMAN_REALM" in digest.problem(Secret("MD5", "metacat", "0a" * 16), "drayman")[1]


def test_a_hash_is_not_shown() -> None:
    assert "0a0a" not in repr(Secret("MD5", "drayman", "0a" * 16))
    assert "password" not in digest.problem(Secret("MD5", "drayman", "password"), "drayman")[1]


def test_md5_is_offered_last_and_only_where_it_is_in_use() -> None:
    assert digest.offered(md5_in_use=False) == ["SHA-256"]
    assert digest.offered(md5_in_use=True) == ["SHA-256", "MD5"]
