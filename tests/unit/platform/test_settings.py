from pathlib import Path

import pytest

from drayman.server.platform.settings import Settings, SettingsError


def refusal(environment: dict[str, str]) -> str:
    with pytest.raises(SettingsError) as caught:
        Settings.from_environment(environment)
    return str(caught.value)


def test_nothing_needs_to_be_set() -> None:
    assert Settings.from_environment({}) == Settings()


def test_each_kind_is_read() -> None:
    settings = Settings.from_environment(
        {
            "DRAYMAN_LISTEN": "127.0.0.1:0",
            "DRAYMAN_DATA_DIR": "/some where/else",
            "DRAYMAN_MAX_CALLS": "17",
            "DRAYMAN_DRAIN_SECONDS": "2.5",
            "DRAYMAN_REFLECTION": "off",
            "UNRELATED": "x",
        }
    )
    assert settings.data_dir == Path("/some where/else")
    assert (settings.max_calls, settings.drain_seconds, settings.reflection) == (17, 2.5, False)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", True),
        ("TRUE", True),
        ("yes", True),
        ("on", True),
        ("0", False),
        ("no", False),
        ("Off", False),
        ("", False),
    ],
)
def test_yes_and_no(text: str, value: bool) -> None:
    assert Settings.from_environment({"DRAYMAN_INSECURE_PLAINTEXT": text}).insecure_plaintext is value


def test_what_the_command_line_says_wins_over_the_environment() -> None:
    environment = {"DRAYMAN_LISTEN": "127.0.0.1:1", "DRAYMAN_MAX_CALLS": "rubbish"}
    settings = Settings.from_environment(environment, listen="127.0.0.1:2", data_dir=None, max_calls=3)
    assert (settings.listen, settings.data_dir, settings.max_calls) == ("127.0.0.1:2", Path(".drayman"), 3)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("LISTEN", "8600"),
        ("LISTEN", ":8600"),
        ("LISTEN", "127.0.0.1:http"),
        ("LISTEN", "127.0.0.1:99999"),
        ("LISTEN", "0.0.0.0:8600"),
        ("LISTEN", "[::]:8600"),
        ("LISTEN", "127.example.org:8600"),
        ("METRICS_LISTEN", "9090"),
        ("METRICS_LISTEN", "127.0.0.1:many"),
        ("METRICS_LISTEN", "127.0.0.1:99999"),
        ("MAX_CALLS", "many"),
        ("MAX_CALLS", "0"),
        ("MAX_MESSAGE_BYTES", "-1"),
        ("DRAIN_SECONDS", "-1"),
        ("DRAIN_SECONDS", "soon"),
        ("NONCE_LIFETIME", "0"),
        ("TOKEN_LIFETIME", "nan"),
        ("FALLBACK_SECONDS", "inf"),
        ("REFLECTION", "maybe"),
        ("LOG_LEVEL", "loud"),
        ("LOG_FORMAT", "xml"),
        ("TLS_CERT", "cert.pem"),
        ("TLS_KEY", "key.pem"),
    ],
)
def test_a_bad_value_is_named(name: str, text: str) -> None:
    assert name in refusal({f"DRAYMAN_{name}": text}).upper()


def test_all_bad_values_are_named_at_once() -> None:
    unreadable = refusal({"DRAYMAN_MAX_CALLS": "many", "DRAYMAN_REFLECTION": "maybe", "DRAYMAN_DRAIN_SECONDS": ""})
    assert [name in unreadable for name in ("MAX_CALLS", "REFLECTION", "DRAIN_SECONDS")] == [True] * 3
    unusable = refusal({"DRAYMAN_LOG_LEVEL": "loud", "DRAYMAN_POOL_SIZE": "0", "DRAYMAN_LISTEN": "here"})
    assert [name in unusable for name in ("log_level", "pool_size", "listen")] == [True] * 3


def test_plaintext_beyond_loopback_is_asked_for_in_words() -> None:
    environment = {"DRAYMAN_LISTEN": "0.0.0.0:8600"}
    assert "insecure_plaintext" in refusal(environment)
    assert Settings.from_environment(environment | {"DRAYMAN_INSECURE_PLAINTEXT": "yes"}).listen == "0.0.0.0:8600"
    tls = {"DRAYMAN_TLS_CERT": "c", "DRAYMAN_TLS_KEY": "k"}
    assert Settings.from_environment(environment | tls).tls_cert == "c"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "localhost", "[::1]"])
def test_loopback_needs_no_words(host: str) -> None:
    assert Settings.from_environment({"DRAYMAN_LISTEN": f"{host}:0"}).listen == f"{host}:0"


def test_every_setting_is_shown_and_secrets_are_not() -> None:
    shown = {name: (value, text) for name, value, text in Settings(database_url="postgresql://u:pw@h/d").shown()}
    assert shown["DRAYMAN_DATABASE_URL"][0] == "***"
    assert "pw" not in str(shown)
    assert shown["DRAYMAN_MAX_CALLS"][0] == "50000"
    assert all(text for _, text in shown.values())
    assert {name.removeprefix("DRAYMAN_").lower() for name in shown} == set(Settings.__dataclass_fields__)


def test_an_empty_secret_is_shown_as_empty() -> None:
    assert {name: value for name, value, _ in Settings().shown()}["DRAYMAN_DATABASE_URL"] == ""
