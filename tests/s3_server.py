"""A real server of the S3 interface on loopback, in a process of its own."""

import itertools
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

_START_SECONDS = 60.0
_numbers = itertools.count(1)


class S3Server:
    """A running server. What it holds is in its memory."""

    def __init__(self, url: str) -> None:
        self.url = url

    @property
    def environment(self) -> dict[str, str]:
        """What a client's environment has to say."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "drayman",
            "AWS_SECRET_ACCESS_KEY": "drayman-secret",
        }

    def bucket(self) -> str:
        """A new, empty bucket."""
        name = f"drayman-{next(_numbers)}"
        httpx.put(f"{self.url}/{name}").raise_for_status()
        return name


@contextmanager
def s3_server(folder: Path) -> Iterator[S3Server]:
    """A server until the end of the block; its log is in the folder."""
    port = _free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    # it would ask others for data of its own otherwise
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    with (
        (folder / "s3.log").open("wb") as log,
        subprocess.Popen(command, stdout=log, stderr=log, env=environment) as process,
    ):
        try:
            _wait(process, port)
            yield S3Server(f"http://127.0.0.1:{port}")
        finally:
            process.terminate()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(process: "subprocess.Popen[bytes]", port: int) -> None:
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end:
        assert process.poll() is None, "the S3 server has ended"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError("the S3 server does not start")
