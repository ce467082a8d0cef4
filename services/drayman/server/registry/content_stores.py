"""Which kind of place for the bytes an address names."""

from collections.abc import Sequence
from pathlib import Path

from drayman.server.registry.content import Content
from drayman.server.registry.local_content import LocalContent
from drayman.server.registry.object_content import ObjectContent


async def open_content(address: str | Path, *, whitelist: Sequence[Path] = ()) -> Content:
    """Open a folder, which is made if it is not there, or an object store (`s3://BUCKET/PREFIX`).

    `whitelist`: folders to which links out of a local registry may lead.
    Raises ValueError for any other kind of address, OSError for a folder that cannot be used.
    """
    text = str(address)
    if text.startswith("s3://"):
        return ObjectContent.open(text)
    if "://" in text and not isinstance(address, Path):
        raise ValueError(f"{text!r} is neither a folder nor s3://BUCKET/PREFIX")
    return await LocalContent.open(Path(text), whitelist=whitelist)
