"""The asyncio client of the registry.

async with RegistryClient("grpc://registry.example.org:8600") as registry:
    await registry.upload("microscopy", "run7", "v1", "./run7")
    await registry.download("microscopy", "run7", "v1", "./copy")
"""

from __future__ import annotations

from drayman.client.registry_download import DownloadCalls
from drayman.client.registry_upload import UploadCalls


class RegistryClient(UploadCalls, DownloadCalls):
    """A registry: what it holds, who may do what with it, and its files in both directions. Methods raise DraymanError."""
