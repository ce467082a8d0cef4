"""The registry against a simple model.

Whatever is uploaded, approved, rejected and removed, and wherever the service is killed: a version is there whole or not at all, and every
figure is right.
"""

import asyncio
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any

import asyncpg
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from drayman.client import DraymanError, UnavailableError
from drayman.client.registry_calls import RegistryCalls
from drayman.client.registry_values import Doomed, Version
from drayman.testing import LocalStack
from service.registry.small_upload import upload

ASSETS = st.sampled_from(["a", "b"])
VERSIONS = st.sampled_from(["v1", "v2", "v3"])
# few contents, so that much is found to be there already
CONTENTS = st.sampled_from([b"", b"one", b"another", b"yet another"])
FILES = st.dictionaries(st.sampled_from(["f", "g", "d/h", "d/e/i"]), CONTENTS, min_size=1)
#: Seconds after which the service is killed: before, within, and after what it is asked to do.
MOMENTS = st.sampled_from([0.0, 0.002, 0.005, 0.01, 0.02, 0.05])
MOST_CRASHES = 3

#: Removed whole: rows that say what has still to be done.
_UNFINISHED = """
SELECT (SELECT count(*) FROM registry.version WHERE state = 'publishing' OR unwritten)
     + (SELECT count(*) FROM registry.removal)
     + (SELECT count(*) FROM registry.project WHERE written < revision)
     + (SELECT count(*) FROM registry.asset WHERE written < revision)
"""

Name = tuple[str, str]
Call = Callable[[RegistryCalls], Awaitable[Any]]


class RegistryMachine(RuleBasedStateMachine):
    """Moves of one project. The model: what each version holds, and whether it waits for approval."""

    stack: LocalStack
    token: str
    #: one for all: gRPC is bound to its loop
    runner: asyncio.Runner
    numbers = count(1)

    def __init__(self) -> None:
        super().__init__()
        self.project = f"p{next(self.numbers)}"
        self.files: dict[Name, dict[str, bytes]] = {}
        self.waiting: set[Name] = set()
        self.crashes = 0
        self.call(lambda registry: registry.create_project(self.project))

    # --- moves -------------------------------------------------------------------------------------------------------

    @rule(asset=ASSETS, version=VERSIONS, files=FILES, probation=st.booleans())
    def upload(self, asset: str, version: str, files: dict[str, bytes], probation: bool) -> None:
        name = asset, version
        refused = self.refused(self.uploading(name, files, probation))
        assert refused == ("VERSION_EXISTS" if name in self.files else "")
        if not refused:
            self.appeared(name, files, probation)

    @rule(asset=ASSETS, version=VERSIONS)
    def approve(self, asset: str, version: str) -> None:
        if self.decided(lambda registry: registry.approve_probation(self.project, asset, version), (asset, version)):
            self.waiting.discard((asset, version))

    @rule(asset=ASSETS, version=VERSIONS)
    def reject(self, asset: str, version: str) -> None:
        if self.decided(lambda registry: registry.reject_probation(self.project, asset, version), (asset, version)):
            self.vanished((asset, version))

    @rule(asset=ASSETS, version=VERSIONS)
    def remove(self, asset: str, version: str) -> None:
        name = asset, version
        if name in self.files:
            self.call(lambda registry: registry.reroute_links([Doomed(self.project, *name)]))
        assert self.call(lambda registry: registry.delete_version(self.project, *name)) is (name in self.files)
        self.vanished(name)

    @rule()
    def refresh(self) -> None:
        assert self.call(lambda registry: registry.refresh_usage(self.project)) == self.usage()
        for asset in {asset for asset, _ in self.files}:
            self.call(lambda registry, asset=asset: registry.refresh_latest(self.project, asset))  # type: ignore[misc]

    # --- moves that are cut off --------------------------------------------------------------------------------------

    @precondition(lambda self: self.crashes < MOST_CRASHES)
    @rule(asset=ASSETS, version=VERSIONS, files=FILES, probation=st.booleans(), moment=MOMENTS)
    def upload_and_die(self, asset: str, version: str, files: dict[str, bytes], probation: bool, moment: float) -> None:
        name = asset, version
        self.killed(self.uploading(name, files, probation), moment)
        if name not in self.files and self.there(name) is not None:
            self.appeared(name, files, probation)

    @precondition(lambda self: self.crashes < MOST_CRASHES and self.waiting)
    @rule(data=st.data(), approved=st.booleans(), moment=MOMENTS)
    def decide_and_die(self, data: st.DataObject, approved: bool, moment: float) -> None:
        name = data.draw(st.sampled_from(sorted(self.waiting)))

        async def decide(registry: RegistryCalls) -> None:
            call = registry.approve_probation if approved else registry.reject_probation
            await call(self.project, *name)

        self.killed(self.asked(decide), moment)
        found = self.there(name)
        if found is None:
            assert not approved
            self.vanished(name)
        elif not found.on_probation:
            assert approved
            self.waiting.discard(name)

    @precondition(lambda self: self.crashes < MOST_CRASHES and self.files)
    @rule(data=st.data(), moment=MOMENTS)
    def remove_and_die(self, data: st.DataObject, moment: float) -> None:
        name = data.draw(st.sampled_from(sorted(self.files)))

        async def remove(registry: RegistryCalls) -> None:
            await registry.reroute_links([Doomed(self.project, *name)])
            await registry.delete_version(self.project, *name)

        self.killed(self.asked(remove), moment)
        if self.there(name) is None:
            self.vanished(name)
        else:  # copies that no row knows of yet may be there: doing it again finishes it
            self.run(self.asked(remove))
            self.vanished(name)

    # --- what always holds -------------------------------------------------------------------------------------------

    @invariant()
    def everything_is_as_the_model_says(self) -> None:
        self.run(self.check())

    async def check(self) -> None:
        await self.recovered()  # whoever is told of a version does not wait for the documents
        registry_folder = self.stack.registry / self.project
        async with RegistryCalls(self.stack.url, self.token, timeout=30) as registry:
            usage = 0
            assets = [asset async for asset in registry.assets(self.project)]
            assert {asset for asset, _ in self.files} <= set(assets)
            for asset in assets:
                found = [version async for version in registry.versions(self.project, asset)]
                expected = {name[1]: name in self.waiting for name in self.files if name[0] == asset}
                assert {version.version: version.on_probation for version in found} == expected
                on_disk = {path.name for path in (registry_folder / asset).iterdir() if not path.name.startswith("..")}
                assert on_disk == expected.keys()
                latest = await registry.latest(self.project, asset)
                assert (latest is None) is all(expected.values())
                assert (registry_folder / asset / "..latest").exists() is (latest is not None)
                for version in found:
                    usage += version.usage
                    content = self.files[asset, version.version]
                    entries = [entry async for entry in registry.entries(self.project, asset, version.version)]
                    assert {entry.path: entry.size for entry in entries} == {
                        path: len(data) for path, data in content.items()
                    }
                    for path, data in content.items():
                        assert (registry_folder / asset / version.version / path).read_bytes() == data
                    assert await registry.validate_version(self.project, asset, version.version) == []
            project = await registry.get_project(self.project)
            assert project.usage == usage
            assert await registry.refresh_usage(self.project) == usage
            waiting = {(version.asset, version.version) async for version in registry.probation(self.project)}
            assert waiting == self.waiting

    # --- how ---------------------------------------------------------------------------------------------------------

    def appeared(self, name: Name, files: dict[str, bytes], probation: bool) -> None:
        self.files[name] = files
        if probation:
            self.waiting.add(name)

    def vanished(self, name: Name) -> None:
        self.files.pop(name, None)
        self.waiting.discard(name)

    def usage(self) -> int:
        async def add_up(registry: RegistryCalls) -> int:
            return sum(
                [
                    version.usage
                    for asset in {asset for asset, _ in self.files}
                    async for version in registry.versions(self.project, asset)
                ]
            )

        return int(self.call(add_up))

    def decided(self, call: Call, name: Name) -> bool:
        """Approve or reject; returns whether it waited."""
        refused = self.refused(self.asked(call))
        if name in self.waiting:
            assert not refused
            return True
        assert refused in ({"NOT_ON_PROBATION"} if name in self.files else {"VERSION_NOT_FOUND", "ASSET_NOT_FOUND"})
        return False

    def refused(self, work: Awaitable[Any]) -> str:
        """Do something; returns the reason if it is refused."""
        try:
            self.run(work)
        except DraymanError as error:
            return error.reason or repr(error)
        return ""

    def there(self, name: Name) -> Version | None:
        async def look(registry: RegistryCalls) -> Version | None:
            if name[0] not in [asset async for asset in registry.assets(self.project)]:
                return None
            found = [version async for version in registry.versions(self.project, name[0])]
            return next((version for version in found if version.version == name[1]), None)

        found: Version | None = self.call(look)
        return found

    def uploading(self, name: Name, files: dict[str, bytes], probation: bool) -> Awaitable[Any]:
        return upload(self.stack.url, self.token, "/".join((self.project, *name)), dict(files), probation=probation)

    async def asked(self, call: Call) -> Any:
        async with RegistryCalls(self.stack.url, self.token, timeout=30) as registry:
            return await call(registry)

    def call(self, call: Call) -> Any:
        return self.run(self.asked(call))

    def run(self, work: Awaitable[Any]) -> Any:
        async def wait() -> Any:
            return await work

        return self.runner.run(wait())

    def killed(self, work: Awaitable[Any], moment: float) -> None:
        """Do something, kill the service meanwhile, start it again, and wait until it has finished what was begun."""
        self.crashes += 1

        async def both() -> None:
            task = asyncio.ensure_future(work)
            await asyncio.sleep(moment)  # the moment is the point: anywhere within
            await asyncio.to_thread(self.stack.kill)
            await asyncio.gather(task, return_exceptions=True)

        self.run(both())
        self.stack.restart()
        self.run(self.recovered())

    async def recovered(self) -> None:
        connection = await asyncpg.connect(self.stack.dsn)
        try:
            async with asyncio.timeout(30):
                while await connection.fetchval(_UNFINISHED) or not await self.answers():
                    await asyncio.sleep(0.02)
        finally:
            await connection.close()

    async def answers(self) -> bool:
        """Whether the service does; gRPC believes for a while that nobody is there."""
        try:
            await self.asked(lambda registry: registry.info())
        except UnavailableError:
            return False
        return True


def test_the_registry_behaves_like_its_model(own_stack: LocalStack) -> None:
    RegistryMachine.stack = own_stack
    RegistryMachine.token = own_stack.token(own_stack.admin[0])
    few = settings(
        max_examples=6,
        stateful_step_count=14,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        # a failure is shown as it was found: finding a smaller one would take an hour
        phases=[Phase.explicit, Phase.reuse, Phase.generate],
    )
    with asyncio.Runner() as RegistryMachine.runner:
        run_state_machine_as_test(RegistryMachine, settings=few)
