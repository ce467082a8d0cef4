import time

import jwt
import pytest

from drayman.server.platform.service_identity import ServiceIdentity
from drayman.server.platform.warrants import Warrant, read_warrant, write_warrant

KEY = "a key that all services of the deployment share"
WARRANT = Warrant("outputs", "ann.result", "12.000001", "ann")


@pytest.fixture
def identity() -> ServiceIdentity:
    return ServiceIdentity(KEY)


def test_a_warrant_says_what_was_written(identity: ServiceIdentity) -> None:
    assert read_warrant(ServiceIdentity(KEY), write_warrant(identity, WARRANT, 60)) == WARRANT


def test_a_warrant_runs_out(identity: ServiceIdentity) -> None:
    assert read_warrant(identity, write_warrant(identity, WARRANT, -3600)) is None


def test_only_the_deployment_writes_warrants(identity: ServiceIdentity) -> None:
    assert read_warrant(identity, write_warrant(ServiceIdentity(KEY + "!"), WARRANT, 60)) is None
    assert read_warrant(identity, "") is None
    assert read_warrant(identity, "not.a.token") is None


def test_a_warrant_is_no_identity_and_an_identity_no_warrant(identity: ServiceIdentity) -> None:
    assert not identity.made(write_warrant(identity, WARRANT, 60))
    assert read_warrant(identity, identity.token()) is None


def test_a_warrant_must_be_complete(identity: ServiceIdentity) -> None:
    now = int(time.time())
    claims = {
        "iss": "drayman services: warrant",
        "iat": now,
        "exp": now + 60,
        "project": "p",
        "asset": "a",
        "version": 1,
        "user": "u",
    }
    assert read_warrant(identity, jwt.encode(claims, KEY, algorithm="HS256")) is None


def test_without_a_signature_it_is_nothing(identity: ServiceIdentity) -> None:
    now = int(time.time())
    claims = {
        "iss": "drayman services: warrant",
        "iat": now,
        "exp": now + 60,
        "project": "p",
        "asset": "a",
        "version": "v",
        "user": "u",
    }
    assert read_warrant(identity, jwt.encode(claims, "", algorithm="none")) is None
