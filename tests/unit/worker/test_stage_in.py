"""Inputs from URLs and paths: fetched, checked, or refused. Those of the registry are tested with one."""

import asyncio
import hashlib
import os
import re
import shlex
import sys
import threading
import time
import zlib
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from drayman.client import RegistryClient
from drayman.client.job_values import JobFile
from drayman.worker.job_error import STAGE_IN_FAILED, JobError
from drayman.worker.stage_in import StageIn, fetch

CONTENT = b"some content\n"
MD5 = hashlib.md5(CONTENT).hexdigest()
ADLER = f"{zlib.adler32(CONTENT):x}"


@pytest.fixture
async def registry() -> AsyncIterator[RegistryClient]:
    """One that nobody calls."""
    async with RegistryClient("grpc://127.0.0.1:9", "no token") as client:
        yield client


class Server(BaseHTTPRequestHandler):
    """Serves good and bad replies by path."""

    slow = threading.Event()

    def do_GET(self) -> None:
        if self.path == "/rude":
            self.wfile.write(b"no http at all\r\n\r\n")
            return
        if self.path == "/missing":
            self.send_error(404)
            return
        self.send_response(200)
        if self.path == "/cut":
            self.send_header("Content-Length", str(len(CONTENT) + 100))
        self.end_headers()
        if self.path == "/endless":
            try:
                while not self.slow.wait(0.01):
                    self.wfile.write(bytes(100_000))
            except OSError:
                return
        self.wfile.write(CONTENT)

    def log_message(self, *_words: object) -> None:
        pass


@pytest.fixture
def http() -> Iterator[str]:
    Server.slow.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    Server.slow.set()
    server.shutdown()
    thread.join()
    server.server_close()


async def problem(stage_in: StageIn, *files: JobFile, folder: Path) -> str:
    with pytest.raises(ExceptionGroup) as raised:
        await stage_in.bring(files, folder)
    (error,) = raised.value.exceptions
    assert isinstance(error, JobError)
    assert error.fields["pilotErrorCode"] == STAGE_IN_FAILED
    return str(error)


@pytest.mark.parametrize("checksum", ["", f"md5:{MD5}", f"adler32:{ADLER}", f"ad:{ADLER.upper()}", "crc32c:whatever"])
@pytest.mark.parametrize("how", ["path", "file", "http"])
async def test_what_is_right(tmp_path: Path, registry: RegistryClient, http: str, how: str, checksum: str) -> None:
    source = tmp_path / "a b%c"
    source.write_bytes(CONTENT)
    url = {"path": str(source), "file": source.as_uri(), "http": f"{http}/good"}[how]
    folder = tmp_path / "work"
    folder.mkdir()
    await StageIn(registry).bring([JobFile("d/in", size=len(CONTENT), checksum=checksum, urls=(url,))], folder)
    assert (folder / "d/in").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("size", "checksum", "text"),
    [
        (99, "", "it has 13 bytes where 99 were expected"),
        (5, "", "more than the 5 bytes|it has 13 bytes where 5"),
        (0, "md5:0123", f"its md5 is {MD5} where 0123 was expected"),
        (13, "adler32:1", f"its adler32 is 0*{ADLER} where 00000001 was expected"),
    ],
)
@pytest.mark.parametrize("how", ["file", "http"])
async def test_what_is_wrong(
    tmp_path: Path, registry: RegistryClient, http: str, how: str, size: int, checksum: str, text: str
) -> None:
    source = tmp_path / "source"
    source.write_bytes(CONTENT)
    url = {"file": source.as_uri(), "http": f"{http}/good"}[how]
    found = await problem(StageIn(registry), JobFile("in", size=size, checksum=checksum, urls=(url,)), folder=tmp_path)
    assert found.startswith(f"input in cannot be had: {url}: ")
    assert re.search(text, found)
    assert source.read_bytes() == CONTENT


@pytest.mark.parametrize(
    "url", ["/nowhere", "file:///nowhere", "root://x/y", "http://[::1", "file://elsewhere/x", "/etc"]
)
async def test_urls_that_lead_nowhere(tmp_path: Path, registry: RegistryClient, url: str) -> None:
    assert url in await problem(StageIn(registry), JobFile("in", urls=(url,)), folder=tmp_path)
    assert not os.path.lexists(tmp_path / "in")


@pytest.mark.parametrize(
    ("path", "text"), [("missing", "404"), ("rude", "no http"), ("cut", "broke off after 13 of 113")]
)
async def test_servers_that_fail(tmp_path: Path, registry: RegistryClient, http: str, path: str, text: str) -> None:
    assert text in await problem(StageIn(registry), JobFile("in", urls=(f"{http}/{path}",)), folder=tmp_path)


async def test_the_next_replica_is_tried(tmp_path: Path, registry: RegistryClient, http: str) -> None:
    urls = ("/nowhere", f"{http}/cut", f"{http}/good")
    await StageIn(registry).bring([JobFile("in", size=13, urls=urls)], tmp_path)
    assert (tmp_path / "in").read_bytes() == CONTENT


async def test_more_bytes_than_announced_are_not_fetched(tmp_path: Path, http: str) -> None:
    with pytest.raises(ValueError, match="more than the 1000 bytes"):
        await fetch(f"{http}/endless", tmp_path / "in", 1000)


async def test_who_gives_up_ends_the_download(tmp_path: Path, http: str) -> None:
    fetching = asyncio.create_task(fetch(f"{http}/endless", tmp_path / "in"))
    async with asyncio.timeout(20):
        while not (tmp_path / "in").exists():
            await asyncio.sleep(0.02)
    fetching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetching
    seen = -1
    async with asyncio.timeout(20):
        while (size := (tmp_path / "in").stat().st_size) != seen:
            seen = size
            await asyncio.sleep(0.3)


@pytest.mark.parametrize("name", ["../in", "/in", "a/../../in", "", "a\0b"])
async def test_names_that_lead_out(tmp_path: Path, registry: RegistryClient, name: str) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    found = await problem(StageIn(registry), JobFile(name, urls=(str(tmp_path),)), folder=folder)
    assert "leads out of the job's folder" in found


async def test_a_command_fetches_what_we_do_not_know(tmp_path: Path, registry: RegistryClient) -> None:
    script = "import sys; open(sys.argv[2], 'w').write(sys.argv[1])"
    stage_in = StageIn(registry, f"{shlex.quote(sys.executable)} -c {shlex.quote(script)} {{url}} {{file}}")
    await stage_in.bring([JobFile("in", urls=("root://host//a b",))], tmp_path)
    assert (tmp_path / "in").read_text() == "root://host//a b"


@pytest.mark.parametrize(
    ("command", "text"),
    [("false", "false ended with 1"), ("true", "brought no file"), ("no-such-command", "no-such-command")],
)
async def test_commands_that_fail(tmp_path: Path, registry: RegistryClient, command: str, text: str) -> None:
    assert text in await problem(StageIn(registry, command), JobFile("in", urls=("root://x/y",)), folder=tmp_path)


async def test_a_command_that_hangs_is_killed_with_who_waits(tmp_path: Path, registry: RegistryClient) -> None:
    mark = tmp_path / "mark"
    stage_in = StageIn(registry, f"bash -c 'sleep 300 & echo $! > {mark}; wait'")
    bringing = asyncio.create_task(stage_in.bring([JobFile("in", urls=("root://x/y",))], tmp_path))
    async with asyncio.timeout(20):
        while not (mark.exists() and mark.read_text()):
            await asyncio.sleep(0.02)
    bringing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await bringing
    pid = int(mark.read_text())
    end = time.monotonic() + 20
    while Path(f"/proc/{pid}/stat").exists() and " Z " not in Path(f"/proc/{pid}/stat").read_text():
        assert time.monotonic() < end
        await asyncio.sleep(0.02)


async def test_what_has_no_url_is_left_to_the_program(tmp_path: Path, registry: RegistryClient) -> None:
    await StageIn(registry).bring([JobFile("/data/x"), JobFile("../y")], tmp_path)
    assert list(tmp_path.iterdir()) == []


async def test_an_input_goes_before_a_file_of_the_sandbox(tmp_path: Path, registry: RegistryClient) -> None:
    source = tmp_path / "source"
    source.write_bytes(CONTENT)
    (tmp_path / "in").write_text("of the sandbox")
    await StageIn(registry).bring([JobFile("in", urls=(str(source),))] * 2, tmp_path)
    assert (tmp_path / "in").read_bytes() == CONTENT
