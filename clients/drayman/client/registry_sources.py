"""A folder as it is uploaded: what is announced of it, and its bytes. Synchronous: for threads."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from drayman.client.registry_progress import Meter
from drayman.client.registry_tree import Digests, Found, Kind, Tree, TreeError, check, digests_of
from drayman.registry.v1 import content_service_pb2 as pb
from drayman.registry.v1 import version_pb2

#: Bytes of content in one message, and files.
_MESSAGE = 1 << 20
_FILES = 500
#: Files of a manifest in one message.
_BATCH = 1000
#: Bytes of a file up to which its content is kept from its hashing to its sending, and of all such files.
_KEPT_FILE = 64 << 10
_KEPT = 32 << 20
#: Bytes of a file from which on it is hashed while it is sent, and not before, unless the registry may have it.
_LATER = 1 << 20


@dataclass(slots=True)
class _Hashed:
    digests: Digests
    content: bytes | None


class Message:
    """A message to send, and what it brings: counted here, because each look at a piece's content would copy it."""

    __slots__ = ("pieces", "request", "size")

    def __init__(self, request: pb.UploadRequest | None = None) -> None:
        self.request = pb.UploadRequest() if request is None else request
        self.pieces = 0
        self.size = 0

    def add(self, file: int, offset: int, content: bytes) -> None:
        """Add a piece. In its place: messages that are put into others are copied."""
        self.request.data.pieces.add(file=file, offset=offset, content=content)
        self.pieces += 1
        self.size += len(content)


class Source:
    """A folder to upload. `find`, `hash`, then the rest; one thread at a time. Files are as they were found, or TreeError."""

    def __init__(self, folder: str, meter: Meter, **options: Any) -> None:
        self._folder = folder
        self._meter = meter
        self._options = options
        self._kept = _KEPT
        self._lock = threading.Lock()
        self._hashed: dict[str, _Hashed] = {}
        self.ended = threading.Event()
        self.found: list[Found] = []
        #: bytes of all files
        self.size = 0

    def find(self) -> list[Found]:
        """Find everything, and hash it if it is small; returns what has still to be hashed before it is announced.

        Raises TreeError, OSError.
        """
        with Tree(self._folder, **self._options) as tree:
            self.found = tree.walk(self._wanted)
        files = [file for file in self.found if _has_content(file)]
        self.size = sum(file.size for file in files)
        if self.size <= _KEPT_FILE and len(files) <= _FILES:
            self._meter.begin("reading", len(files), self.size)
            self.hash(files)
            return []
        return [file for file in files if file.size < _LATER]

    def hash(self, files: Sequence[Found], with_md5: bool = True) -> None:
        """Hash some of the files. Threads may share them out. Raises TreeError."""
        with Tree(self._folder, **self._options) as tree:
            for file in files:
                if self._keeps(file.size):
                    content = tree.content(file)
                    hashed = _Hashed(digests_of(content), content)
                    self._read(file.size)
                else:
                    hashed = _Hashed(tree.digests(file, self._read, with_md5=with_md5), None)
                self._hashed[file.path] = hashed
                self._meter.files += 1
                if self.ended.is_set():
                    raise InterruptedError("the reading was ended")

    @property
    def is_small(self) -> bool:
        """Whether everything is so little that it goes into one message, unasked."""
        return (
            self.size <= _KEPT_FILE
            and len(self.found) <= _FILES
            and all(hashed.content is not None for hashed in self._hashed.values())
        )

    def manifest(self) -> Iterator[pb.UploadRequest]:
        """Announce everything."""
        for first in range(0, len(self.found), _BATCH):
            files = [self._announce(file) for file in self.found[first : first + _BATCH]]
            yield pb.UploadRequest(manifest=pb.UploadManifest(files=files))
        yield pb.UploadRequest(manifest_end=pb.UploadManifestEnd(files=len(self.found)))

    def whole(self, begin: pb.UploadBegin) -> tuple[pb.UploadRequest, int]:
        """All of it in one message, with the bytes of its content."""
        contents = [
            (number, hashed.content)
            for number, file in enumerate(self.found)
            if (hashed := self._hashed.get(file.path))
        ]
        pieces = [pb.Piece(file=number, content=content) for number, content in contents if content]
        files = [self._announce(file) for file in self.found]
        size = sum(len(piece.content) for piece in pieces)
        return pb.UploadRequest(whole=pb.UploadWhole(begin=begin, files=files, pieces=pieces)), size

    def data(self, wanted: Sequence[tuple[int, int]]) -> Generator[Message, None, None]:
        """Read files by their numbers, from offsets on. Raises TreeError."""
        message = Message()
        with Tree(self._folder, **self._options) as tree:
            for number, offset in wanted:
                file = self.found[number]
                hashed = self._hashed.get(file.path)
                if hashed is None:
                    yield from self._unhashed(tree, number, file)
                    continue
                content = hashed.content
                if content is None and file.size - offset <= _MESSAGE // 4 and not offset:
                    content = tree.content(file)
                if content is not None:
                    if message.pieces and (message.size + len(content) > _MESSAGE or message.pieces >= _FILES):
                        yield message
                        message = Message()
                    message.add(number, offset, content[offset:])
                    continue
                for begin, content in _contents(tree, file, offset):
                    big = Message()
                    big.add(number, begin, content)
                    yield big
        if message.pieces:
            yield message

    def digests(self, numbers: Iterable[int]) -> Iterator[pb.UploadRequest]:
        """Say the digests of files that were announced without and are hashed by now."""
        said = [pb.FileDigests(file=number, md5=md5, sha256=sha256) for number, md5, sha256 in self._known(numbers)]
        for first in range(0, len(said), _BATCH):
            yield pb.UploadRequest(digests=pb.UploadDigests(files=said[first : first + _BATCH]))

    def _known(self, numbers: Iterable[int]) -> Iterator[tuple[int, str, str]]:
        for number in numbers:
            _, md5, sha256 = self.entry(self.found[number])
            yield number, md5, sha256

    def _unhashed(self, tree: Tree, number: int, file: Found) -> Iterator[Message]:
        """Read a file from its beginning, and hash it by the way; its digests follow it."""
        sha256 = hashlib.sha256()
        for offset, content in _contents(tree, file, 0):
            sha256.update(content)
            message = Message()
            message.add(number, offset, content)
            yield message
        self._hashed[file.path] = _Hashed(Digests(None, sha256.digest()), None)
        for digests in self.digests([number]):
            yield Message(digests)

    def entry(self, file: Found) -> tuple[int, str, str]:
        """Size, MD5 (empty if nobody needed it) and SHA-256 of a file; of links and empty directories nothing."""
        hashed = self._hashed.get(file.path)
        if hashed is None:
            return 0, "", ""
        digests = hashed.digests
        return file.size, "" if digests.md5 is None else digests.md5.hex(), digests.sha256.hex()

    def _announce(self, file: Found) -> pb.UploadFile:
        if file.kind is Kind.DIRECTORY:
            return pb.UploadFile(path=file.path, empty_directory=True)
        if file.kind is Kind.LOCAL:
            return pb.UploadFile(path=file.path, link=pb.UploadLink(local=file.target))
        if file.kind is Kind.REGISTRY:
            project, asset, version, path = file.target.split("/", 3)
            address = version_pb2.FileAddress(project=project, asset=asset, version=version, path=path)
            return pb.UploadFile(path=file.path, link=pb.UploadLink(registry=address))
        size, md5, sha256 = self.entry(file)
        if not sha256:
            return pb.UploadFile(path=file.path, size=file.size, digests_follow=True)
        return pb.UploadFile(path=file.path, size=size, md5=md5, sha256=sha256)

    def _keeps(self, size: int) -> bool:
        with self._lock:
            if size > _KEPT_FILE or size > self._kept:
                return False
            self._kept -= size
            return True

    def _wanted(self) -> bool:
        return not self.ended.is_set()

    def _read(self, size: int) -> bool:
        # a count that two threads change at once may miss a little: it is for the eye
        self._meter.bytes += size
        return not self.ended.is_set()


def _has_content(file: Found) -> bool:
    return file.kind in (Kind.FILE, Kind.OUTSIDE)


def _contents(tree: Tree, file: Found, offset: int) -> Iterator[tuple[int, bytes]]:
    fd = tree.open(file)
    try:
        while offset < file.size:
            content = os.pread(fd, min(_MESSAGE, file.size - offset), offset)
            if not content:
                raise TreeError(file.path, "it changes while it is read")
            yield offset, content
            offset += len(content)
        check(fd, file)
    except OSError as error:
        raise TreeError(file.path, f"cannot be read: {error.strerror}") from error
    finally:
        os.close(fd)
