import hashlib

import pytest

from drayman.auth.v1 import auth_service_pb2 as pb
from drayman.client import digest
from drayman.client.challenge import answer_challenge
from drayman.client.errors import UnauthenticatedError


def challenge(*algorithms: str) -> pb.GetChallengeResponse:
    return pb.GetChallengeResponse(realm="drayman", nonce="n0nce", algorithms=algorithms)


def reply(rspauth: str) -> pb.LoginResponse:
    return pb.LoginResponse(token=pb.SessionToken(token="t0ken"), rspauth=rspauth)


def test_each_algorithm_that_both_know_is_answered_in_the_order_of_the_server() -> None:
    answers = answer_challenge("ann", "secret", challenge("SHA-512-256", "SHA-256", "MD5"))
    assert [answer.credential.algorithm for answer in answers] == ["SHA-256", "MD5"]
    assert answer_challenge("ann", "secret", challenge("SCRAM")) == []
    assert answer_challenge("ann", "secret", challenge()) == []


def test_the_answer_proves_the_password_and_does_not_hold_it() -> None:
    (answer,) = answer_challenge("ann", "pass:wörd", challenge("SHA-256"))
    sent = answer.credential
    ha1 = hashlib.sha256("ann:drayman:pass:wörd".encode()).hexdigest()
    assert (sent.username, sent.nonce) == ("ann", "n0nce")
    assert sent.response == digest.response(ha1, "n0nce", sent.cnonce)
    for part in ("pass:wörd", ha1):
        assert part not in str(answer) + str(sent)
    assert len(sent.cnonce) >= 8


def test_client_nonces_differ() -> None:
    seen = {answer_challenge("ann", "x", challenge("MD5"))[0].credential.cnonce for _ in range(50)}
    assert len(seen) == 50


@pytest.mark.parametrize("algorithm", ["SHA-256", "MD5"])
def test_a_server_that_knows_the_password_is_believed(algorithm: str) -> None:
    (answer,) = answer_challenge("ann", "secret", challenge(algorithm))
    ha1 = digest.ha1("ann", "drayman", "secret", algorithm)
    assert answer.check(reply(digest.rspauth(ha1, "n0nce", answer.credential.cnonce, algorithm))) == "t0ken"


@pytest.mark.parametrize("rspauth", ["", "é", "0" * 64])
def test_a_server_that_does_not_know_the_password_is_not(rspauth: str) -> None:
    (answer,) = answer_challenge("ann", "secret", challenge("SHA-256"))
    for claimed in (rspauth, answer.credential.response):
        with pytest.raises(UnauthenticatedError):
            answer.check(reply(claimed))
