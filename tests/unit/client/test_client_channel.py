import json
from pathlib import Path

import pytest

from drayman.auth.v1 import (
    audit_service_pb2,
    auth_service_pb2,
    secret_service_pb2,
    session_service_pb2,
    trust_service_pb2,
    user_service_pb2,
)
from drayman.client import channel
from drayman.client.channel import Address, UrlError, open_channel, open_sync_channel, parse_url
from drayman.dispatch.v1 import handle_service_pb2, history_service_pb2, project_service_pb2, storage_service_pb2
from drayman.registry.v1 import content_service_pb2, output_service_pb2, registry_service_pb2
from drayman.system.v1 import system_service_pb2
from drayman.task.v1 import (
    farm_service_pb2,
    job_service_pb2,
    pilot_service_pb2,
    sandbox_service_pb2,
    task_service_pb2,
)


@pytest.mark.parametrize(
    ("url", "target", "tls"),
    [
        ("grpc://localhost:1234", "dns:///localhost:1234", False),
        ("grpc://LocalHost", "dns:///LocalHost:8600", False),
        ("localhost:1234", "dns:///localhost:1234", False),
        ("127.0.0.1", "dns:///127.0.0.1:8600", False),
        ("127.8.9.1", "dns:///127.8.9.1:8600", False),
        # what has no scheme is not sent in the clear
        ("host:1234", "dns:///host:1234", True),
        ("host", "dns:///host:8600", True),
        ("127.0.0.1,10.0.0.1", "ipv4:127.0.0.1:8600,10.0.0.1:8600", True),
        ("grpcs://host.example.org:443", "dns:///host.example.org:443", True),
        ("http://localhost:1234/path", "dns:///localhost:1234", False),
        ("https://host", "dns:///host:8600", True),
        ("grpc://[::1]:1234", "dns:///[::1]:1234", False),
        ("grpc://[::1]", "dns:///[::1]:8600", False),
        ("grpc://127.0.0.1:1,127.0.0.2", "ipv4:127.0.0.1:1,127.0.0.2:8600", False),
        ("grpcs://[::1]:1,[::2]:2", "ipv6:[::1]:1,[::2]:2", True),
        ("grpc://127.0.0.1:65535", "dns:///127.0.0.1:65535", False),
    ],
)
def test_urls(url: str, target: str, tls: bool) -> None:
    assert parse_url(url) == Address(target, tls)
    assert not parse_url(url).readable


REMOTE = [
    "grpc://host:1234",
    "http://host",
    "grpc://10.0.0.1",
    "grpc://0.0.0.0:1",
    "grpc://[::2]:1",
    "grpc://127.0.0.1.example.org",
    "grpc://localhost.example.org",
    "grpc://127.0.0.1:1,10.0.0.2:2",
]


@pytest.mark.parametrize("url", REMOTE)
def test_nothing_is_sent_in_the_clear_beyond_this_machine(url: str) -> None:
    with pytest.raises(UrlError, match=r"grpcs://.*DRAYMAN_INSECURE_PLAINTEXT=true"):
        parse_url(url)


@pytest.mark.parametrize("url", REMOTE)
def test_unless_somebody_asks_for_it(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRAYMAN_INSECURE_PLAINTEXT", "true")
    assert not parse_url(url).tls
    assert parse_url(url).readable
    assert parse_url("host").tls, "a name alone still means TLS"
    monkeypatch.setenv("DRAYMAN_INSECURE_PLAINTEXT", "false")
    with pytest.raises(UrlError):
        parse_url(url)


@pytest.mark.parametrize("url", ["grpcs://host", "grpc://localhost", "grpcs://127.0.0.1:1,10.0.0.2:2"])
def test_what_nobody_else_can_read(url: str) -> None:
    assert not parse_url(url).readable


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host:1",
        "grpc://",
        "grpc://:8600",
        "grpc://host:0",
        "grpc://host:65536",
        "grpc://host:http",
        "grpc://host:²",
        "grpc://host:-1",
        "grpc://[::1",
        "grpc://one:1,two:2",
        "grpc://10.0.0.1:1,[::1]:2",
        "grpc://10.0.0.1:1,",
        "grpc://ann@host:1",
        "grpc://ann:secret@host:1",
        "ftp://ann:secret@host:1",
        "grpc://ann:secret@[::1",
    ],
)
def test_what_names_no_deployment(url: str) -> None:
    with pytest.raises(UrlError) as caught:
        parse_url(url)
    assert "secret" not in str(caught.value)


def test_the_environment_is_the_default_and_localhost_the_last_resort(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse_url() == Address("dns:///127.0.0.1:8600", tls=False)
    monkeypatch.setenv("DRAYMAN_URL", "grpcs://there:1")
    assert parse_url() == Address("dns:///there:1", tls=True)
    assert parse_url("grpcs://here:2") == Address("dns:///here:2", tls=True)
    monkeypatch.setenv("DRAYMAN_URL", "")
    assert parse_url() == Address("dns:///127.0.0.1:8600", tls=False)


def test_only_what_may_be_repeated_is_repeated() -> None:
    methods = channel._SERVICE_CONFIG["methodConfig"]
    policies = [entry["retryPolicy"] for entry in methods if "retryPolicy" in entry]
    assert [policy["retryableStatusCodes"] for policy in policies] == [["UNAVAILABLE"]]
    options = dict(channel._OPTIONS)
    assert json.loads(str(options["grpc.service_config"]))["loadBalancingConfig"] == [{"round_robin": {}}]


def test_no_stream_is_repeated_by_grpc_itself() -> None:
    """A stream that is would be lost inside grpc when its server shuts down."""
    entries = [entry["name"] for entry in channel._SERVICE_CONFIG["methodConfig"] if "retryPolicy" not in entry]
    without = [name for names in entries for name in names]
    files = (
        audit_service_pb2,
        auth_service_pb2,
        secret_service_pb2,
        session_service_pb2,
        system_service_pb2,
        trust_service_pb2,
        user_service_pb2,
        handle_service_pb2,
        history_service_pb2,
        project_service_pb2,
        storage_service_pb2,
        content_service_pb2,
        output_service_pb2,
        registry_service_pb2,
        farm_service_pb2,
        job_service_pb2,
        pilot_service_pb2,
        sandbox_service_pb2,
        task_service_pb2,
    )
    streams = {
        (service.full_name, method.name)
        for file in files
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
        if method.client_streaming or method.server_streaming
    }
    # nor is the use of a nonce, which serves once
    login = ("drayman.auth.v1.AuthService", "Login")
    assert {(name["service"], name["method"]) for name in without} == streams | {login}


async def test_a_channel_connects_with_the_first_call_only() -> None:
    async with open_channel("grpc://127.0.0.1:1"):
        pass
    open_sync_channel("grpc://127.0.0.1:1").close()


async def test_authorities_of_a_site_are_read_from_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DRAYMAN_CA_FILE", str(tmp_path / "missing.pem"))
    with pytest.raises(FileNotFoundError, match=r"missing\.pem"):
        open_channel("grpcs://127.0.0.1:1")
    async with open_channel("grpc://127.0.0.1:1"):
        pass  # plaintext needs none
