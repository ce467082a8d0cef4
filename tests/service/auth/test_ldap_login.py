"""Logins against a real directory."""

import asyncio
import contextlib
import logging
import socket
import ssl
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from drayman.server.auth.ldap_login import DirectoryAway, LdapLogin, LdapSettings
from drayman.server.platform.settings import Settings, SettingsError
from slapd import (
    ODD,
    ODD_PASSWORD,
    PASSWORDS,
    PEOPLE,
    REFERRAL,
    SEARCHER,
    SEARCHER_PASSWORD,
    SUFFIX,
    TEMPLATE,
    Slapd,
)

ANN = PASSWORDS["ann"]
BY_TEMPLATE = {"ldap_dn_template": TEMPLATE}
BY_SEARCH = {"ldap_search_base": SUFFIX, "ldap_bind_dn": SEARCHER, "ldap_bind_password": SEARCHER_PASSWORD}
WAYS = pytest.mark.parametrize("way", [BY_TEMPLATE, BY_SEARCH], ids=["template", "search"])
#: Resolves to 127.0.0.1, but is not one of the names by which a server may do without TLS.
NOT_PLAINLY_LOOPBACK = "127.1"

Make = Callable[..., LdapLogin]


@pytest.fixture
def make() -> Iterator[Make]:
    """Make logins that are closed in the end: by default by template, with a patience that no live server exhausts."""
    made = []

    def make(url: str, ca_file: Path | str, **settings: object) -> LdapLogin:
        how = settings if {"ldap_dn_template", "ldap_search_base"} & set(settings) else settings | BY_TEMPLATE
        values = {"ldap_timeout": 20.0, **how}
        read = LdapSettings.from_settings(Settings(ldap_url=url, ldap_ca_file=str(ca_file), **values))
        assert read is not None
        made.append(LdapLogin(read))
        return made[-1]

    yield make
    for login in made:
        login.close()


@WAYS
@pytest.mark.parametrize("kind", ["ldap", "ldaps"])
async def test_the_right_password_and_only_that(slapd: Slapd, make: Make, kind: str, way: dict[str, str]) -> None:
    login = make(getattr(slapd, kind), slapd.ca_file, **way)
    assert await login.check("ann", ANN, None)
    assert not await login.check("ann", ANN + "x", None)
    assert not await login.check("ann", PASSWORDS["bob"], None)
    assert await login.check("zoë", PASSWORDS["zoë"], "")
    assert await login.check(ODD, ODD_PASSWORD, None)
    assert not await login.check("nobody", ANN, None)
    assert not await login.check("mute", ANN, None)


@WAYS
@pytest.mark.parametrize(
    "name",
    [
        "*",
        "a*",
        "ann)(uid=*",
        "*)(uid=ann",
        "ann))(|(uid=*",
        f"ann,{PEOPLE}",
        "ann+cn=somebody",
        "ann\\",
        "\\61nn",
        "ann\0",
        "ann\0,x",
        "{username}",
        "\ud800",
        "",
        "a" * 256,
    ],
)
async def test_no_name_speaks_for_another(slapd: Slapd, make: Make, way: dict[str, str], name: str) -> None:
    assert not await make(slapd.ldap, slapd.ca_file, **way).check(name, ANN, None)


@WAYS
@pytest.mark.parametrize("password", ["", "\0", f"{ANN}\0", "\ud800", "x" * 5000])
async def test_what_is_no_password_is_refused(slapd: Slapd, make: Make, way: dict[str, str], password: str) -> None:
    assert not await make(slapd.ldaps, slapd.ca_file, **way).check("ann", password, None)


@pytest.mark.parametrize(
    ("name", "password"),
    [("ann", ""), ("", "x"), ("ann", "\0"), ("an\0n", "x"), ("a" * 256, "x"), ("ann", "x" * 4097), ("ann", "\ud800")],
)
async def test_and_does_not_travel(make: Make, name: str, password: str) -> None:
    # asked, it would say so: nothing listens there
    assert not await make("ldaps://localhost:1", "").check(name, password, None)
    assert not await make("ldaps://localhost:1", "").check("ann", "x", "uid=a\0nn")


@WAYS
async def test_a_registered_dn_is_the_one_that_counts(slapd: Slapd, make: Make, way: dict[str, str]) -> None:
    login = make(slapd.ldaps, slapd.ca_file, **way)
    bob = f"uid=bob,{PEOPLE}"
    assert await login.check("robert", PASSWORDS["bob"], bob)
    assert not await login.check("ann", ANN, bob)
    assert await login.check("twin", PASSWORDS["twin"], f"uid=twin,ou=guests,{SUFFIX}")
    for useless in ("/DC=org/DC=example/CN=bob", "uid=gone,dc=example,dc=org", "not a name"):
        assert not await login.check("bob", PASSWORDS["bob"], useless)


async def test_a_blank_registered_dn_is_none(slapd: Slapd, make: Make) -> None:
    login = make(slapd.ldaps, slapd.ca_file)
    assert not await login.check("nobody", ANN, "  ")
    assert await login.check("ann", ANN, "  ")


async def test_two_entries_are_none(slapd: Slapd, make: Make) -> None:
    login = make(slapd.ldaps, slapd.ca_file, **BY_SEARCH)
    assert not await login.check("twin", PASSWORDS["twin"], None)
    narrower = make(slapd.ldaps, slapd.ca_file, **{**BY_SEARCH, "ldap_search_base": PEOPLE})
    assert await narrower.check("twin", PASSWORDS["twin"], None)


async def test_many_entries_are_none(slapd: Slapd, make: Make) -> None:
    everybody = {**BY_SEARCH, "ldap_search_filter": "(|(uid={username})(objectClass=person))"}
    assert not await make(slapd.ldaps, slapd.ca_file, **everybody).check("ann", ANN, None)


async def test_an_anonymous_search(slapd: Slapd, slapd_folder: Path, make: Make) -> None:
    with Slapd(slapd_folder, anonymous_search=True) as open_to_all:
        login = make(open_to_all.ldaps, open_to_all.ca_file, ldap_search_base=SUFFIX)
        assert await login.check("ann", ANN, None)
        assert not await login.check("ann", "wrong", None)
        assert not await login.check("nobody", ANN, None)
    with pytest.raises(DirectoryAway, match="the search in 'dc=example,dc=org' failed"):
        await make(slapd.ldaps, slapd.ca_file, ldap_search_base=SUFFIX).check("ann", ANN, None)


async def test_a_search_that_cannot_work_is_nobodys_wrong_password(slapd: Slapd, make: Make) -> None:
    refused = make(slapd.ldaps, slapd.ca_file, **{**BY_SEARCH, "ldap_bind_password": "old one"})
    with pytest.raises(DirectoryAway, match="the account for searches was refused: invalidCredentials"):
        await refused.check("ann", ANN, None)
    lost = make(slapd.ldaps, slapd.ca_file, **{**BY_SEARCH, "ldap_search_base": f"ou=gone,{SUFFIX}"})
    with pytest.raises(DirectoryAway, match="noSuchObject"):
        await lost.check("ann", ANN, None)


async def test_whoever_does_not_exist_costs_the_same_work(slapd: Slapd, make: Make) -> None:
    login = make(slapd.ldaps, slapd.ca_file, **BY_SEARCH)
    work = {}
    for name, registered in (("ann", None), ("nobody", None), ("twin", None), ("bob", f"uid=bob,{PEOPLE}")):
        before = len(slapd.log.read_bytes())
        assert not await login.check(name, "wrong", registered)
        # the server closes a connection in its own time, and says so last
        await until(lambda before=before: b" closed" in slapd.log.read_bytes()[before:])
        said = slapd.log.read_bytes()[before:].splitlines()
        work[name] = [kind for line in said for kind in (b"method=128", b"SRCH base=") if kind in line]
    assert work["ann"] == [b"method=128", b"SRCH base=", b"method=128"]
    assert work["nobody"] == work["twin"] == work["bob"] == work["ann"]


async def test_referrals_are_not_followed(slapd_folder: Path, make: Make) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        other.setblocking(False)
        elsewhere = f"ldap://127.0.0.1:{other.getsockname()[1]}"
        with Slapd(slapd_folder, anonymous_search=True, elsewhere=elsewhere) as directory:
            login = make(directory.ldap, directory.ca_file)
            assert not await login.check("elsewhere", ANN, None)
            assert not await login.check("below", ANN, f"uid=below,{REFERRAL}")
            # the search comes by the referral, too
            search = make(directory.ldap, directory.ca_file, ldap_search_base=SUFFIX)
            assert await search.check("ann", ANN, None)
            assert not await search.check("elsewhere", ANN, None)
            with pytest.raises(DirectoryAway, match="referral"):
                await make(directory.ldap, directory.ca_file, ldap_search_base=REFERRAL).check("ann", ANN, None)
        with pytest.raises(BlockingIOError):
            other.accept()


@pytest.mark.parametrize("kind", ["ldap", "ldaps"])
async def test_an_unknown_authority(slapd: Slapd, slapd_folder: Path, make: Make, kind: str) -> None:
    stranger = Slapd(slapd_folder)
    for ca_file in ("", stranger.ca_file):
        with pytest.raises(DirectoryAway, match=r"certificate is not trusted: .*(self-signed|signature|issuer)"):
            await make(getattr(slapd, kind), ca_file).check("ann", ANN, None)


@pytest.mark.parametrize("kind", ["ldap", "ldaps"])
@pytest.mark.parametrize(
    ("certificate", "problem"),
    [({"hosts": ("other.example",)}, "Hostname mismatch"), ({"expired": True}, "certificate has expired")],
)
async def test_a_bad_certificate(
    slapd_folder: Path, make: Make, kind: str, certificate: dict[str, object], problem: str
) -> None:
    with Slapd(slapd_folder, **certificate) as directory:
        with pytest.raises(DirectoryAway, match=f"certificate is not trusted: {problem}"):
            await make(getattr(directory, kind), directory.ca_file).check("ann", ANN, None)
        assert b"BIND dn=" not in directory.log.read_bytes()


@pytest.mark.parametrize("kind", ["ldap", "ldaps"])
async def test_another_name_of_the_same_machine(slapd: Slapd, make: Make, kind: str) -> None:
    url = getattr(slapd, kind).replace("localhost", NOT_PLAINLY_LOOPBACK)
    with pytest.raises(DirectoryAway, match="certificate is not trusted: Hostname mismatch"):
        await make(url, slapd.ca_file).check("ann", ANN, None)


async def test_a_server_without_tls_will_do_on_loopback_only(slapd_folder: Path, make: Make) -> None:
    with Slapd(slapd_folder, tls=False) as plain:
        for host in ("localhost", "127.0.0.1"):
            login = make(f"ldap://{host}:{plain.port}", plain.ca_file)
            assert await login.check("ann", ANN, None)
            assert not await login.check("ann", "wrong", None)
        said = len(plain.log.read_bytes())
        with pytest.raises(DirectoryAway, match="startTLS failed"):
            await make(f"ldap://{NOT_PLAINLY_LOOPBACK}:{plain.port}", plain.ca_file).check("ann", ANN, None)
        assert b"BIND dn=" not in plain.log.read_bytes()[said:]


class WithoutTls:
    """A server that denies StartTLS, answers the next request with `result` (a code, raw bytes, None: not at all), and remembers both."""

    def __init__(self, result: int | bytes | None = b"") -> None:
        self.heard = bytearray()
        self.ended = asyncio.Event()
        self._result = result

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = True
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(4096):
                self.heard.extend(data)
                number = data[2 : 4 + data[3]]
                answer: int | bytes | None = 2 if first else self._result
                if isinstance(answer, int):
                    body = number + bytes((0x78 if first else 0x61, 7, 10, 1, answer, 4, 0, 4, 0))
                    writer.write(bytes((0x30, len(body))) + body)
                elif answer is not None:
                    writer.write(answer)
                    break
                first = False
        writer.close()
        self.ended.set()

    async def __aenter__(self) -> int:
        self._server = await asyncio.start_server(self.talk, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def __aexit__(self, *_: object) -> None:
        self._server.close()


@pytest.mark.parametrize("way", [BY_TEMPLATE, BY_SEARCH], ids=["template", "search"])
async def test_nothing_is_sent_before_tls(make: Make, way: dict[str, str]) -> None:
    """Whoever sits in the middle and claims not to know StartTLS hears of nobody."""
    server = WithoutTls()
    async with server as port:
        with pytest.raises(DirectoryAway, match="startTLS failed - protocolError"):
            await make(f"ldap://{NOT_PLAINLY_LOOPBACK}:{port}", "", **way).check("ann", ANN, None)
        await asyncio.wait_for(server.ended.wait(), 10)
    assert b"1.3.6.1.4.1.1466.20037" in server.heard
    for text in ("ann", SEARCHER, SEARCHER_PASSWORD, "example"):
        assert text.encode() not in server.heard


@pytest.mark.parametrize(
    ("result", "problem"),
    [
        (b"", "session terminated by server"),
        (b"\x30\x03\x02\x01", "session terminated by server|not LDAP"),
        (b"no LDAP, but long enough for it to look like a message" * 9, "localhost"),
        (None, "timed out"),
        (8, "answered with strongerAuthRequired"),
        (34, "answered with invalidDNSyntax"),
        (51, "answered with busy"),
        (52, "answered with unavailable"),
        (99, "not LDAP"),
    ],
)
async def test_a_directory_that_fails_in_the_middle(make: Make, result: int | bytes | None, problem: str) -> None:
    async with WithoutTls(result) as port:
        with pytest.raises(DirectoryAway, match=problem) as caught:
            await make(f"ldap://localhost:{port}", "", ldap_timeout=0.5).check("ann", ANN, None)
    assert ANN not in repr(caught.value)


@pytest.mark.parametrize("result", [10, 19, 32, 48, 49, 50, 53])
async def test_what_a_directory_says_of_a_user_is_a_refusal(make: Make, result: int) -> None:
    async with WithoutTls(result) as port:
        assert not await make(f"ldap://localhost:{port}", "").check("ann", ANN, None)


async def test_a_directory_that_is_gone(slapd_folder: Path, make: Make) -> None:
    directory = Slapd(slapd_folder)
    directory.start()
    try:
        logins = [make(getattr(directory, kind), directory.ca_file) for kind in ("ldap", "ldaps")]
        for login in logins:
            assert await login.check("ann", ANN, None)
    finally:
        directory.kill()
    for login in logins:
        with pytest.raises(DirectoryAway, match="Connection refused"):
            await login.check("ann", ANN, None)


async def test_a_directory_that_falls_silent(slapd_folder: Path, make: Make) -> None:
    with Slapd(slapd_folder) as directory:
        directory.freeze()
        for url in (directory.ldap, directory.ldaps):
            with pytest.raises(DirectoryAway, match="timed out"):
                await make(url, directory.ca_file, ldap_timeout=0.2).check("ann", ANN, None)


@pytest.mark.parametrize("kind", ["ldap", "ldaps"])
async def test_a_server_that_never_says_anything(make: Make, kind: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        login = make(f"{kind}://localhost:{mute.getsockname()[1]}", "", ldap_timeout=0.2)
        with pytest.raises(DirectoryAway, match="timed out"):
            await asyncio.wait_for(login.check("ann", ANN, None), 20)


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x30\x03\x02\x01", b"\x30\x05\x02\x01\x01\x78\x00", b""]
)
async def test_a_server_that_does_not_speak_ldap(make: Make, answer: bytes) -> None:
    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(4096)
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(babble, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        for kind in ("ldap", "ldaps"):
            with pytest.raises(DirectoryAway):
                await make(f"{kind}://localhost:{port}", "", ldap_timeout=5.0).check("ann", ANN, None)


async def test_one_server_stands_in_for_another(slapd: Slapd, make: Make) -> None:
    login = make(f"ldaps://localhost:1 ldap://no.such.host.invalid\t{slapd.ldaps}", slapd.ca_file)
    assert await login.check("ann", ANN, None)
    assert not await login.check("ann", "wrong", None)
    with pytest.raises(
        DirectoryAway, match=r"ldaps://localhost:1: .*; ldap://no.such.host.invalid:389: cannot resolve"
    ):
        await make("ldaps://localhost:1 ldap://no.such.host.invalid", slapd.ca_file).check("ann", ANN, None)


@WAYS
async def test_twenty_at_once(slapd: Slapd, make: Make, way: dict[str, str]) -> None:
    login = make(slapd.ldaps, slapd.ca_file, **way)
    users = [("ann", ANN), ("bob", PASSWORDS["bob"]), ("ann", PASSWORDS["bob"]), ("nobody", ANN)] * 5
    answers = await asyncio.gather(*(login.check(name, password, None) for name, password in users))
    assert answers == [True, True, False, False] * 5
    assert sum(thread.name.startswith("ldap") for thread in threading.enumerate()) <= 8


async def test_a_crowd_before_a_silent_directory_is_turned_away(make: Make) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        login = make(f"ldaps://localhost:{mute.getsockname()[1]}", "", ldap_timeout=0.5)
        crowd = [asyncio.ensure_future(login.check("ann", ANN, None)) for _ in range(210)]
        done, waiting = await asyncio.wait(crowd, return_when=asyncio.FIRST_COMPLETED)
        assert all("waiting" in str(task.exception()) for task in done)
        for task in waiting:
            task.cancel()
        assert len(waiting) == 200
        await asyncio.wait(waiting)


async def test_after_the_end(slapd: Slapd, make: Make) -> None:
    login = make(slapd.ldaps, slapd.ca_file)
    login.close()
    for _ in range(3):
        with pytest.raises(DirectoryAway, match="shutting down"):
            await login.check("ann", ANN, None)


async def test_no_password_is_told(slapd: Slapd, make: Make, caplog: pytest.LogCaptureFixture) -> None:
    secrets = ("tell nobody", "nor this")
    caplog.set_level(logging.DEBUG)
    settings = LdapSettings.from_settings(
        Settings(ldap_url=slapd.ldaps, **{**BY_SEARCH, "ldap_bind_password": secrets[1]})
    )
    told = [repr(settings), str(settings)]
    for url, ca_file in ((slapd.ldaps, slapd.ca_file), (slapd.ldaps, ""), ("ldap://localhost:1", "")):
        login = make(url, ca_file, **{**BY_SEARCH, "ldap_bind_password": secrets[1]})
        told.append(repr(vars(login)))
        with pytest.raises(DirectoryAway) as caught:
            await login.check("ann", secrets[0], None)
        told += [repr(caught.value), *traceback.format_exception(caught.value)]
    assert not await make(slapd.ldaps, slapd.ca_file).check("ann", secrets[0], None)
    for text in (*told, caplog.text, *(thread.name for thread in threading.enumerate())):
        for secret in secrets:
            assert secret not in text


def test_the_lowest_version_of_tls(make: Make) -> None:
    assert make("ldaps://localhost", "")._tls.minimum_version >= ssl.TLSVersion.TLSv1_2


def test_no_url_no_directory() -> None:
    assert LdapSettings.from_settings(Settings(ldap_dn_template=TEMPLATE)) is None


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({}, "needs ldap_dn_template or ldap_search_base"),
        ({**BY_TEMPLATE, "ldap_search_base": SUFFIX}, "exclude each other"),
        ({"ldap_dn_template": "uid={user}"}, "ldap_dn_template 'uid={user}'"),
        ({"ldap_search_base": SUFFIX, "ldap_search_filter": "uid={username}"}, "ldap_search_filter 'uid={username}'"),
        ({**BY_SEARCH, "ldap_bind_password": ""}, "belong together"),
        ({**BY_SEARCH, "ldap_bind_dn": ""}, "belong together"),
        ({**BY_SEARCH, "ldap_search_base": "", **BY_TEMPLATE}, "ldap_bind_dn is for searches"),
        ({**BY_TEMPLATE, "ldap_timeout": 0.0}, "ldap_timeout"),
        ({**BY_TEMPLATE, "ldap_timeout": float("nan")}, "ldap_timeout"),
        ({**BY_TEMPLATE, "ldap_url": "http://a"}, "ldap_url 'http://a': expected ldaps://"),
        ({**BY_TEMPLATE, "ldap_url": "ldapi:///run/x"}, "expected ldaps://"),
        ({**BY_TEMPLATE, "ldap_url": "a.example.org"}, "expected ldaps://"),
        ({**BY_TEMPLATE, "ldap_url": "ldaps://"}, "expected a host"),
        ({**BY_TEMPLATE, "ldap_url": "ldaps://a/dc=org"}, "expected a host"),
        ({**BY_TEMPLATE, "ldap_url": "ldaps://u:p@a"}, "expected a host"),
        ({**BY_TEMPLATE, "ldap_url": "ldaps://a?x"}, "expected a host"),
        ({**BY_TEMPLATE, "ldap_url": "ldaps://a:99999"}, "[Pp]ort"),
        ({**BY_TEMPLATE, "ldap_url": "ldaps://a:0"}, "port 0"),
        ({**BY_TEMPLATE, "ldap_url": "ldaps://[::1"}, "IPv6"),
    ],
)
def test_contradictions_are_named(settings: dict[str, object], problem: str) -> None:
    with pytest.raises(SettingsError, match=problem.replace("{", "[{]")):
        LdapSettings.from_settings(Settings(**{"ldap_url": "ldaps://localhost", **settings}))


def test_and_all_of_them_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        LdapSettings.from_settings(Settings(ldap_url="http://a ftp://b", ldap_bind_dn="cn=x", ldap_timeout=-1.0))
    for part in ("http://a", "ftp://b", "needs", "belong together", "ldap_timeout"):
        assert part in str(caught.value)


def test_urls_as_they_are_told() -> None:
    settings = LdapSettings.from_settings(Settings(ldap_url="LDAPS://A.example.org. ldap://[::1]:1389/", **BY_TEMPLATE))
    assert settings is not None
    assert [str(url) for url in settings.urls] == ["ldaps://a.example.org:636", "ldap://[::1]:1389"]


@pytest.mark.parametrize("content", [None, "not a certificate"])
def test_authorities_that_cannot_be_read(make: Make, tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SettingsError, match=r"ldap_ca_file .*ca\.pem"):
        make("ldaps://localhost", path)


def test_without_ldap3(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ldap3", None)
    with pytest.raises(SettingsError, match=r"pip install 'drayman\[ldap\]'"):
        make("ldaps://localhost", "")


async def until(true: Callable[[], bool]) -> None:
    """Wait for something that nobody announces."""
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0.01)
