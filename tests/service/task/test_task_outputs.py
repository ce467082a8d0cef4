"""Where outputs go, against a real registry in which reading needs a login: projects, warrants, versions put together, what is there."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import pytest_asyncio

from drayman.client import ForbiddenError
from drayman.client.registry import RegistryClient
from drayman.server.platform.errors import Refusal
from drayman.server.platform.service_identity import ServiceIdentity
from drayman.server.task.dataset_names import Place
from drayman.server.task.outputs import Outputs
from drayman.testing import LocalStack
from service.task.closed_deployment import channel, closed_stack, identity


@pytest.fixture(scope="module")
def closed() -> Iterator[LocalStack]:
    with closed_stack() as stack:
        stack.add_user("pilot")
        yield stack


@pytest_asyncio.fixture
async def outputs(closed: LocalStack) -> AsyncIterator[Outputs]:
    async with channel(closed.url) as opened:
        yield Outputs(opened, identity(closed), "outputs")


@pytest_asyncio.fixture
async def pilot(closed: LocalStack) -> AsyncIterator[RegistryClient]:
    async with RegistryClient(closed.url, closed.token("pilot")) as client:
        yield client


def folder(path: Path, *names: str) -> Path:
    path.mkdir()
    for name in names:
        (path / name).write_text(name)
    return path


async def test_from_the_project_to_the_version_of_all_parts(
    closed: LocalStack, outputs: Outputs, pilot: RegistryClient, tmp_path: Path
) -> None:
    asset = f"user.ann.{uuid4().hex[:8]}"
    await outputs.open("outputs", "ann", [asset])
    await outputs.open("outputs", "bob", [asset])
    places = [Place("outputs", asset, f"7.00000{number}", "7") for number in (1, 2)]
    for number, place in enumerate(places, start=1):
        assert await outputs.present(place.project, place.asset, place.version) is None
        warrant = outputs.warrant(place, "ann", 60.0)
        content = folder(tmp_path / str(number), f"f{number}")
        (content / "empty").mkdir()
        await pilot.upload(place.project, place.asset, place.version, content, warrant=warrant)
        assert await outputs.present(place.project, place.asset, place.version) == {f"f{number}"}
    for _ in range(2):  # a crash may come between this and its being noted
        await outputs.assemble(places[0], [place.version for place in places], "ann")
    assert await outputs.present("outputs", asset, "7") == {"f1", "f2"}


async def test_a_warrant_is_for_one_version_and_runs_out(
    outputs: Outputs, pilot: RegistryClient, tmp_path: Path
) -> None:
    asset = f"user.ann.{uuid4().hex[:8]}"
    await outputs.open("outputs", "ann", [asset])
    content = folder(tmp_path / "f", "f")
    good = Place("outputs", asset, "1.000001", "1")
    for warrant, version in (
        (outputs.warrant(good, "ann", 60.0), "1.000002"),
        (outputs.warrant(good, "ann", -120.0), "1.000001"),
    ):
        with pytest.raises(ForbiddenError) as refused:
            await pilot.upload("outputs", asset, version, content, warrant=warrant)
        assert refused.value.reason == "NOT_AN_UPLOADER"


async def test_somebody_elses_project_is_refused(closed: LocalStack, outputs: Outputs) -> None:
    project = f"p{uuid4().hex[:8]}"
    await outputs.open(project, "ann", ["a"])
    await outputs.open(project, "ann", ["a"])
    with pytest.raises(Refusal) as refused:
        await outputs.open(project, "bob", ["a"])
    assert refused.value.reason == "NOT_AN_UPLOADER"


async def test_parts_that_are_gone_cannot_be_put_together(outputs: Outputs) -> None:
    asset = f"user.ann.{uuid4().hex[:8]}"
    await outputs.open("outputs", "ann", [asset])
    with pytest.raises(Refusal) as refused:
        await outputs.assemble(Place("outputs", asset, "1.000001", "1"), ["1.000001"], "ann")
    assert refused.value.reason in ("VERSION_NOT_FOUND", "ASSET_NOT_FOUND")


async def test_without_a_registry() -> None:
    nobody = Outputs(None, ServiceIdentity("k" * 40), "outputs")
    place = Place("outputs", "a", "1.000001", "1")
    for call in (
        nobody.open("outputs", "ann", ["a"]),
        nobody.assemble(place, ["1.000001"], "ann"),
        nobody.present("outputs", "a", "1"),
    ):
        with pytest.raises(Refusal) as refused:
            await call
        assert refused.value.reason == "NOT_OFFERED", "that nobody knows is not that it is lost"


async def test_a_registry_that_is_away_has_lost_nothing(closed: LocalStack) -> None:
    async with channel("grpc://127.0.0.1:9") as away:
        outputs = Outputs(away, identity(closed), "outputs")
        with pytest.raises(Refusal) as refused:
            await outputs.present("outputs", "a", "1")
    assert refused.value.reason == "UNAVAILABLE"
