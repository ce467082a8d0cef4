"""What other services of the deployment keep in the registry: projects for outputs, versions made of others, workers with warrants."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc.aio
import pytest
import pytest_asyncio

from drayman.client import AlreadyExistsError, DraymanError, ForbiddenError, InvalidRequestError, NotFoundError
from drayman.client.channel import open_channel
from drayman.client.credentials import bearer
from drayman.client.errors import from_rpc_error
from drayman.client.registry import RegistryClient
from drayman.client.registry_values import Uploader
from drayman.registry.v1 import output_service_pb2 as pb
from drayman.registry.v1 import output_service_pb2_grpc
from drayman.server.platform.service_identity import ServiceIdentity
from drayman.server.platform.warrants import Warrant, write_warrant
from service.registry.house import House


class Outputs:
    """The service's stub, as another service uses it."""

    def __init__(self, channel: grpc.aio.Channel, token: Any) -> None:
        self._stub = output_service_pb2_grpc.OutputServiceStub(channel)
        self._token = token

    async def open(self, project: str, user: str, *assets: str, shared: bool = False) -> bool:
        return bool(
            (
                await self._call(
                    self._stub.OpenOutputProject,
                    pb.OpenOutputProjectRequest(project=project, user=user, assets=assets, shared=shared),
                )
            ).created
        )

    async def assemble(self, project: str, asset: str, version: str, *parts: str) -> int:
        request = pb.AssembleVersionRequest(project=project, asset=asset, version=version, parts=parts, user="ann")
        return int((await self._call(self._stub.AssembleVersion, request)).files)

    async def _call(self, method: Any, request: Any) -> Any:
        try:
            return await method(request, metadata=bearer(self._token()))
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None


@pytest_asyncio.fixture
async def outputs(registry: House) -> AsyncIterator[Outputs]:
    async with open_channel(registry.url) as channel:
        yield Outputs(channel, registry.identity.token)


@pytest_asyncio.fixture
async def worker(registry: House) -> AsyncIterator[RegistryClient]:
    async with registry.client("pilot") as client:
        yield client


def _folder(path: Path, **files: str) -> Path:
    path.mkdir()
    for name, content in files.items():
        (path / name).write_text(content)
    return path


def _name() -> str:
    return f"out-{uuid4().hex[:10]}"


async def test_a_project_for_outputs_belongs_to_who_asked(outputs: Outputs, owner: RegistryClient) -> None:
    project = _name()
    assert await outputs.open(project, "ann", "result")
    assert not await outputs.open(project, "ann", "result")
    assert (await owner.permissions(project)).owners == ("ann",)
    with pytest.raises(ForbiddenError, match="may not upload") as refused:
        await outputs.open(project, "bob", "result")
    assert refused.value.reason == "NOT_AN_UPLOADER"


async def test_whoever_may_upload_may_have_outputs_there(
    outputs: Outputs, administrator: RegistryClient, project: str
) -> None:
    await administrator.set_permissions(project, add_uploaders=[Uploader("bob", asset="result")])
    assert not await outputs.open(project, "bob", "result")
    with pytest.raises(ForbiddenError):
        await outputs.open(project, "bob", "result", "other")


async def test_a_shared_project_is_everybodys(outputs: Outputs, owner: RegistryClient) -> None:
    project = _name()
    assert await outputs.open(project, "ann", shared=True)
    assert not await outputs.open(project, "bob", shared=True)
    assert (await owner.permissions(project)).owners == ()


async def test_bad_names_are_refused(outputs: Outputs) -> None:
    for project, asset in (("..x", "a"), ("p", "a/b"), ("", "a")):
        with pytest.raises(InvalidRequestError):
            await outputs.open(project, "ann", asset)
    with pytest.raises(InvalidRequestError):
        await outputs.open(_name(), "")


async def test_only_services_may_ask(registry: House) -> None:
    token = registry.issuer.token("root", admin=True)
    async with open_channel(registry.url) as channel:
        with pytest.raises(ForbiddenError) as refused:
            await Outputs(channel, lambda: token).open(_name(), "root")
    assert refused.value.reason == "SERVICE_ONLY"


async def test_a_worker_with_a_warrant_makes_that_version(
    registry: House, outputs: Outputs, worker: RegistryClient, tmp_path: Path
) -> None:
    project = _name()
    await outputs.open(project, "ann", "result")
    folder = _folder(tmp_path / "job", part="1")
    warrant = write_warrant(registry.identity, Warrant(project, "result", "7.000001", "ann"), 60)
    with pytest.raises(ForbiddenError):
        await worker.upload(project, "result", "7.000001", folder)
    with pytest.raises(ForbiddenError, match=r"is for .*7\.000001, not for .*7\.000002"):
        await worker.upload(project, "result", "7.000002", folder, warrant=warrant)
    made = (await worker.upload(project, "result", "7.000001", folder, warrant=warrant)).version
    assert (made.upload_user, made.on_probation) == ("ann", False)
    with pytest.raises(AlreadyExistsError):
        await worker.upload(project, "result", "7.000001", _folder(tmp_path / "again", part="2"), warrant=warrant)


async def test_a_warrant_of_somebody_else_is_none(
    registry: House, outputs: Outputs, worker: RegistryClient, tmp_path: Path
) -> None:
    project = _name()
    await outputs.open(project, "ann", "result")
    folder = _folder(tmp_path / "job", part="1")
    wanted = Warrant(project, "result", "1", "ann")
    for text in (
        write_warrant(ServiceIdentity("another key, of another deployment, it is"), wanted, 60),
        write_warrant(registry.identity, wanted, -3600),
        "nonsense",
    ):
        with pytest.raises(ForbiddenError, match="warrant"):
            await worker.upload(project, "result", "1", folder, warrant=text)
    with pytest.raises(InvalidRequestError):
        await worker.upload(
            project, "result", "1", folder, warrant=write_warrant(registry.identity, wanted, 60), on_probation=True
        )


async def test_a_version_is_put_together_of_links(
    outputs: Outputs, owner: RegistryClient, registry: House, project: str, tmp_path: Path
) -> None:
    for number in (1, 2):
        folder = _folder(tmp_path / str(number), **{f"part{number}": str(number)})
        await owner.upload(project, "result", f"7.00000{number}", folder)
    before = await owner.get_project(project)
    assert await outputs.assemble(project, "result", "7", "7.000001", "7.000002") == 2
    await owner.download(project, "result", "7", tmp_path / "fetched")
    assert {path.name: path.read_text() for path in (tmp_path / "fetched").iterdir()} == {"part1": "1", "part2": "2"}
    assert (registry.root / project / "result" / "7" / "part1").is_symlink()
    assert (await owner.get_project(project)).usage == before.usage
    # asked again, it is there
    assert await outputs.assemble(project, "result", "7", "7.000001", "7.000002") == 2
    with pytest.raises(AlreadyExistsError):
        await outputs.assemble(project, "result", "7", "7.000001")


async def test_what_does_not_fit_together_is_refused(
    outputs: Outputs, owner: RegistryClient, project: str, tmp_path: Path
) -> None:
    for number in (1, 2):
        await owner.upload(project, "result", f"1.00000{number}", _folder(tmp_path / str(number), same=str(number)))
    with pytest.raises(InvalidRequestError, match="twice"):
        await outputs.assemble(project, "result", "1", "1.000001", "1.000002")
    with pytest.raises(NotFoundError):
        await outputs.assemble(project, "result", "1", "1.000001", "1.000003")
    with pytest.raises(InvalidRequestError):
        await outputs.assemble(project, "result", "1")
    with pytest.raises(DraymanError):
        await owner.get_version(project, "result", "1")
