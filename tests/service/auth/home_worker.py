"""A process that shares a home folder with others, started by the tests of renewal.

It calls for so many seconds without pause, then prints a JSON object: the tokens that it called with, and why it was refused, if so.
"""

import asyncio
import json
import os
import sys
import time

from drayman.client import AuthClient, DraymanError
from drayman.data_dispatcher.api import APIError, DataDispatcherClient


def by_mirror(seconds: float, pause: float) -> tuple[set[str], list[str], int]:
    client = DataDispatcherClient(worker_id="w")
    tokens, refusals, calls = set(), [], 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            client.auth_info()
        except APIError as error:
            refusals.append(str(error))
        tokens.add(client.Token or "")
        calls += 1
        time.sleep(pause)
    return tokens, refusals, calls


async def by_asyncio(seconds: float, pause: float) -> tuple[set[str], list[str], int]:
    tokens, refusals, calls = set(), [], 0
    async with AuthClient() as client:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            results = await asyncio.gather(*(client.auth_info() for _ in range(3)), return_exceptions=True)
            for result in results:
                if isinstance(result, DraymanError):
                    refusals.append(f"{result.reason} {result.message}")
                elif isinstance(result, BaseException):
                    raise result
            tokens.add(client.credentials.token or "")
            calls += len(results)
            await asyncio.sleep(pause)
    return tokens, refusals, calls


def main(kind: str, seconds: str, pause: str) -> None:
    span = float(seconds), float(pause)
    tokens, refusals, calls = by_mirror(*span) if kind == "mirror" else asyncio.run(by_asyncio(*span))
    json.dump({"pid": os.getpid(), "tokens": sorted(tokens), "refusals": refusals, "calls": calls}, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
