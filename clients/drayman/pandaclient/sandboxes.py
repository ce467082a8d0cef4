"""The sandbox cache: archives with users' code, which their jobs unpack.

PanDA, sections 3.3 and 7 of its behaviour.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from drayman.pandaclient import settings
from drayman.pandaclient.calls import FAILED, CallFailed, call, shown
from drayman.task.v1 import sandbox_service_pb2 as pb
from drayman.task.v1 import sandbox_service_pb2_grpc

_Stub = sandbox_service_pb2_grpc.SandboxServiceStub

#: Bytes of what is no `sources.*`.
_LARGEST = 10 * 1024 * 1024
_CHUNK = 1024 * 1024
_TRAILER = 8
#: The status of a fetch that failed.
_NOT_FETCHED = 1


def putFile(
    file: str | os.PathLike[str], verbose: bool = False, useCacheSrv: bool = False, reuseSandbox: bool = False
) -> tuple[int, str]:
    """Store a file in the sandbox cache under its base name: returns `(0, "True")`, the text.

    `(0, "NewFileName:<name>")` if `reuseSandbox` and the caller stored the same in the last 3 days (by size and the last 8 bytes):
    nothing is sent. `(0, "ERROR : text")` if the service refuses it, above all because the name is taken; `(0, "False")` without a
    token; `(255, "False")` for more than 10 MiB under a name that does not begin with `sources.`; `(255, text)` if there was no answer.
    It goes to the server, which is the cache from then on, or with `useCacheSrv` to the cache. Raises OSError if there is no such file.
    """
    path = Path(file)
    with path.open("rb") as source:
        size = os.fstat(source.fileno()).st_size
        source.seek(max(0, size - _TRAILER))
        trailer = source.read(_TRAILER)
    if size > _LARGEST and not path.name.startswith("sources."):
        if verbose:
            print(f"{path} has {size} bytes: at most {_LARGEST} are allowed")
        return shown((FAILED, "False"), verbose)
    server = settings.cache_url() if useCacheSrv else settings.url()
    try:
        known = _known(server, size, trailer) if reuseSandbox else ""
        if not known:
            _send(server, path, size)
    except CallFailed as failure:
        return shown(_refusal(failure), verbose)
    if known or not useCacheSrv:
        settings.uploaded_to(server)
    return shown((0, f"NewFileName:{known}" if known else "True"), verbose)


def getFile(
    filename: str, output_path: str | os.PathLike[str] | None = None, verbose: bool = False
) -> tuple[int, bool | str]:
    """Fetch a file of the sandbox cache into `output_path`, else under its own name: returns `(0, True)` or `(1, text)`.

    The file is there whole or not at all. Anybody may who knows the name.
    """
    target = Path(filename if output_path is None else output_path)
    result: tuple[int, bool | str] = 0, True
    partial: Path | None = None
    try:
        descriptor, name = tempfile.mkstemp(
            prefix=f".{target.name}."[:100], dir=settings.temporary_folder() or target.parent
        )
        partial = Path(name)
        with os.fdopen(descriptor, "wb"):
            pass
        _fetch(str(filename), partial)
        if target.is_dir():
            raise IsADirectoryError(f"{target} is a folder")
        partial.chmod(_mode(target))
        shutil.move(partial, target)
    except CallFailed as failure:
        result = _NOT_FETCHED, failure.text
    except (OSError, ValueError) as error:
        result = _NOT_FETCHED, str(error)
    finally:
        if partial is not None:
            partial.unlink(missing_ok=True)
    return shown(result, verbose)


def _known(server: str, size: int, trailer: bytes) -> str:
    def ask(stub: _Stub, arguments: dict[str, Any]) -> str:
        return stub.FindSandbox(pb.FindSandboxRequest(size=size, trailer=trailer), **arguments).name

    return call(_Stub, ask, server)


def _send(server: str, path: Path, size: int) -> None:
    def ask(stub: _Stub, arguments: dict[str, Any]) -> str:
        with path.open("rb") as source:

            def parts() -> Iterator[pb.PutSandboxRequest]:
                yield pb.PutSandboxRequest(header=pb.SandboxHeader(name=path.name, size=size))
                while chunk := source.read(_CHUNK):
                    yield pb.PutSandboxRequest(chunk=chunk)

            return stub.PutSandbox(parts(), **arguments).name

    call(_Stub, ask, server)


def _fetch(name: str, target: Path) -> None:
    def ask(stub: _Stub, arguments: dict[str, Any]) -> None:
        with target.open("wb") as file:
            for reply in stub.GetSandbox(pb.GetSandboxRequest(name=name), **arguments):
                if reply.WhichOneof("part") == "chunk":
                    file.write(reply.chunk)

    call(_Stub, ask, settings.cache_url())


def _refusal(failure: CallFailed) -> tuple[int, str]:
    if failure.anonymous:
        return 0, "False"
    refused = failure.answered or failure.reason in ("SANDBOX_TOO_LARGE", "STORAGE_FULL")
    return (0, f"ERROR : {failure.text}") if refused else (FAILED, failure.text)


def _mode(target: Path) -> int:
    """Return the permissions that a new file would get, or those of the one that is replaced."""
    try:
        return target.stat().st_mode & 0o777
    except FileNotFoundError:
        mask = os.umask(0)
        os.umask(mask)
        return 0o666 & ~mask
