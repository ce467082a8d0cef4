"""What an upload says that it brings: read, checked and numbered."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from drayman.registry.v1 import content_service_pb2 as pb
from drayman.server.platform.errors import Refusal, invalid
from drayman.server.registry import names
from drayman.server.registry.addresses import FileAddress
from drayman.server.registry.entries import check_tree

#: Files of one upload.
MOST_FILES = 1_000_000

_LARGEST = 2**63 - 1
_MD5 = re.compile(r"[0-9a-f]{32}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Announced:
    """A file that is to be uploaded, a link, or an empty directory.

    A file's hashes are None as long as they are not known: MD5 if the client leaves it to us, both if `digests_follow`.
    """

    path: str
    size: int = 0
    md5: bytes | None = None
    sha256: bytes | None = None
    #: whether the client says the hashes later
    digests_follow: bool = False
    #: the file of the registry that it links to
    registry: FileAddress | None = None
    #: path of the file of the same upload that it links to
    local: str | None = None
    #: absolute path of the file outside that it stands for; never from the wire
    outside: str = ""

    @property
    def has_content(self) -> bool:
        """Whether it is a file."""
        return self.sha256 is not None or self.md5 is not None or self.digests_follow

    @property
    def is_link(self) -> bool:
        """Whether it is a link that the uploader made."""
        return self.registry is not None or self.local is not None


def read(files: Iterable[pb.UploadFile], first: int) -> list[Announced]:
    """Read files; the first one has the number `first`. Raises Refusal, which names the field."""
    found = []
    for number, file in enumerate(files, first):
        try:
            found.append(_read_file(file))
        except ValueError as error:
            raise invalid(f"manifest.files[{number}]", f"file {number}: {error}", path=file.path) from error
    if first + len(found) > MOST_FILES:
        raise invalid("manifest.files", f"an upload has at most {MOST_FILES} files")
    return found


def check(files: list[Announced], announced: int) -> None:
    """Check files together; `announced` is how many there should be. Raises Refusal."""
    if announced != len(files):
        raise Refusal(
            "INCOMPLETE_FILE_LIST", f"{announced} files were announced, {len(files)} came", "manifest_end.files"
        )
    try:
        check_tree(file.path for file in files)
    except ValueError as error:
        raise invalid("manifest.files", str(error)) from error


def with_digests(files: Sequence[Announced], said: Iterable[pb.FileDigests]) -> dict[int, Announced]:
    """Read digests that follow; returns what is known of the files now, by numbers. Raises Refusal."""
    found: dict[int, Announced] = {}
    for digests in said:
        number = digests.file
        if not 0 <= number < len(files) or not files[number].digests_follow or number in found:
            raise invalid("digests.files.file", f"digests of file {number}, which were not to follow, or have already")
        try:
            md5, sha256 = _read_digests(files[number].path, digests)
        except ValueError as error:
            raise invalid("digests.files", f"file {number}: {error}", path=files[number].path) from error
        found[number] = replace(files[number], md5=md5, sha256=sha256, digests_follow=False)
    return found


def _read_file(file: pb.UploadFile) -> Announced:
    path = file.path
    names.check_path(path)
    if file.empty_directory or file.HasField("link"):
        if file.size or file.md5 or file.sha256 or file.digests_follow:
            raise ValueError(f"{names.shown(path)}: links and empty directories have neither size nor hashes")
        return Announced(path) if file.empty_directory else _read_link(path, file)
    size = file.size
    if not 0 <= size <= _LARGEST:
        raise ValueError(f"{names.shown(path)}: size {size}: expected 0 or more")
    if file.digests_follow:
        if file.md5 or file.sha256 or not size:
            raise ValueError(f"{names.shown(path)}: digests_follow: expected no digests here, and a size of 1 or more")
        return Announced(path, size, digests_follow=True)
    return Announced(path, size, *_read_digests(path, file))


def _read_digests(path: str, said: pb.UploadFile | pb.FileDigests) -> tuple[bytes | None, bytes]:
    """Read MD5, if it is said, and SHA-256. Raises ValueError."""
    if said.md5 and not _MD5.fullmatch(said.md5):
        raise ValueError(f"{names.shown(path)}: md5 {said.md5[:40]!r}: expected 32 lower-case hex digits, or nothing")
    if not _SHA256.fullmatch(said.sha256):
        raise ValueError(f"{names.shown(path)}: sha256 {said.sha256[:70]!r}: expected 64 lower-case hex digits")
    return bytes.fromhex(said.md5) if said.md5 else None, bytes.fromhex(said.sha256)


def _read_link(path: str, file: pb.UploadFile) -> Announced:
    if file.empty_directory:
        raise ValueError(f"{names.shown(path)}: either a link or an empty directory")
    target = file.link.WhichOneof("target")
    if target == "local":
        names.check_path(file.link.local)
        return Announced(path, local=file.link.local)
    if target == "registry":
        said = file.link.registry
        address = FileAddress(said.project, said.asset, said.version, said.path)
        address.check()
        return Announced(path, registry=address)
    raise ValueError(f"{names.shown(path)}: a link to nothing: expected `registry` or `local`")
