"""Uploads of directories of a shared staging folder."""

import asyncio
import os
import pwd
import shutil
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest
import pytest_asyncio

from drayman.client import (
    DraymanError,
    ForbiddenError,
    InvalidRequestError,
    NotFoundError,
    NotOfferedError,
    OverloadedError,
)
from drayman.client.registry import RegistryClient
from drayman.server.registry.whitelist import Whitelist
from service.registry import trees
from service.registry.house import House, house

MIB = 1 << 20
FILES = {"a": b"alpha", "d/b": b"beta" * 1000, "d/big": b"B" * (2 * MIB + 3), ".dot/c": b"gamma", "empty": b""}
ME = pwd.getpwuid(os.geteuid()).pw_name


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folders out of the registry, one of them on the whitelist."""
    folder = tmp_path_factory.mktemp("outside")
    trees.write(folder, {"good/file": b"lasting", "good/d/e": b"e", "bad/secret": b"secret"})
    (folder / "good/leak").symlink_to("../bad/secret")
    return folder


@pytest_asyncio.fixture(scope="module")
async def staged(
    postgres: object, outside: Path, tmp_path_factory: pytest.TempPathFactory, module_database: str
) -> AsyncIterator[House]:
    folder = tmp_path_factory.mktemp("staged")
    (folder / "whitelist").write_text(f"# lasting\n{outside / 'good'}\n\n")
    (folder / "spoof").write_text(f"{ME}:alicia\nbot:*,-root\n")
    settings = {"registry_whitelist": str(folder / "whitelist"), "registry_spoof": str(folder / "spoof")}
    async with house(module_database, folder, **settings) as running:
        yield running


@pytest_asyncio.fixture(scope="module")
async def me(staged: House) -> AsyncIterator[RegistryClient]:
    """The client of the account that runs the tests, which owns what it writes into the staging folder."""
    async with staged.client(ME) as client:
        yield client


@pytest_asyncio.fixture
async def project(staged: House) -> str:
    name = f"p-{uuid4().hex[:10]}"
    async with staged.client("root-user", admin=True) as client:
        await client.create_project(name, owners=[ME])
    return name


@pytest.fixture
def source(staged: House) -> Path:
    return trees.write(staged.staging / f"s-{uuid4().hex[:10]}", FILES | {"hollow": None})


async def test_a_directory_becomes_a_version(staged: House, me: RegistryClient, project: str, source: Path) -> None:
    done = await me.upload_staged(project, "asset", "v1", source.name)
    assert done.version.usage == sum(map(len, FILES.values()))
    assert done.version.entries == len(FILES) + 1
    place = staged.root / project / "asset/v1"
    trees.check_version(place, FILES)
    assert (place / "hollow").is_dir()
    # it is a copy
    assert not (place / "a").samefile(source / "a")
    assert trees.contents(source) == FILES
    again = await me.upload_staged(project, "asset", "v2", source.name, ignore_dot=True)
    assert (again.deduplicated, again.version.usage) == (len(FILES) - 1, 0)
    assert trees.leads(staged.root / project / "asset/v2/d/b") == "../../v1/d/b"
    assert trees.leftovers(staged.root) == []


async def test_consume(staged: House, me: RegistryClient, project: str, source: Path) -> None:
    (source / "a").chmod(0o600)
    same = (source / "d/big").stat().st_ino
    await me.upload_staged(project, "asset", "v1", source.name, consume=True)
    place = staged.root / project / "asset/v1"
    trees.check_version(place, FILES)
    assert not source.exists()
    # it was moved, if that is possible
    if staged.staging.stat().st_dev == staged.root.stat().st_dev:
        assert (place / "d/big").stat().st_ino == same
    assert (place / "d/big").stat().st_nlink == 1
    assert (place / "a").stat().st_mode & 0o777 == 0o644


async def test_consume_takes_nothing_from_an_upload_that_is_refused(
    staged: House, me: RegistryClient, project: str, source: Path
) -> None:
    await me.upload_staged(project, "asset", "v1", source.name)
    with pytest.raises(DraymanError):
        await me.upload_staged(project, "asset", "v1", source.name, consume=True)
    os.mkfifo(source / "z-pipe")
    with pytest.raises(InvalidRequestError):
        await me.upload_staged(project, "asset", "v2", source.name, consume=True)
    assert trees.contents(source) == FILES


async def test_consumed_content_with_other_names_is_copied(
    staged: House, me: RegistryClient, project: str, source: Path, tmp_path: Path
) -> None:
    os.link(source / "a", source.parent / f"..{source.name}-other")
    await me.upload_staged(project, "asset", "v1", source.name, consume=True)
    (source.parent / f"..{source.name}-other").write_bytes(b"changed")
    assert (staged.root / project / "asset/v1/a").read_bytes() == b"alpha"


async def test_links(staged: House, me: RegistryClient, project: str, source: Path, outside: Path) -> None:
    await me.upload_staged(project, "base", "v1", source.name)
    files = trees.write(staged.staging / f"l-{uuid4().hex[:10]}", {"real": b"real", "d/x": b"x"})
    (files / "near").symlink_to("real")
    (files / "absolute").symlink_to(files / "d/x")
    (files / "folder").symlink_to("d")
    (files / "far").symlink_to(staged.root / project / "base/v1/d/b")
    (files / "lasting").symlink_to(outside / "good/file")
    done = await me.upload_staged(project, "asset", "v1", files.name)
    here = f"{project}/asset/v1"
    entries = {
        entry.path: (entry.size, entry.link.target.key if entry.link else "")
        async for entry in me.entries(project, "asset", "v1")
    }
    assert entries == {
        "real": (4, ""),
        "d/x": (1, ""),
        "near": (4, f"{here}/real"),
        "absolute": (1, f"{here}/d/x"),
        "folder/x": (1, f"{here}/d/x"),
        "far": (4000, f"{project}/base/v1/d/b"),
        "lasting": (7, ""),
    }
    assert done.version.usage == 4 + 1 + 7
    place = staged.root / here
    assert trees.leads(place / "lasting") == str(outside / "good/file")
    assert trees.leads(place / "far") == "../../base/v1/d/b"
    assert (place / "folder/x").read_bytes() == b"x"
    assert [block async for block in me.read(project, "asset", "v1", "lasting")] == [b"lasting"]
    # the registry by another way
    (staged.staging / "..mounted").symlink_to(staged.root)
    other = trees.write(staged.staging / f"l-{uuid4().hex[:10]}", {})
    (other / "far").symlink_to(staged.staging / "..mounted" / project / "base/v1/a")
    await me.upload_staged(project, "asset", "v2", other.name)
    assert trees.leads(staged.root / project / "asset/v2/far") == "../../base/v1/a"
    (staged.staging / "..mounted").unlink()


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.relpath(path))


REFUSED = {
    "a FIFO": (os.mkfifo, "FIFO"),
    "a socket": (_socket, "socket"),
    "a device": (lambda path: os.mknod(path, 0o020600, os.makedev(1, 3)), "device"),
    "a link out": (lambda path: path.symlink_to("/etc/passwd"), "neither in the folder nor in the registry"),
    "a relative link out": (lambda path: path.symlink_to("../" * 40 + "etc/passwd"), "neither"),
    "a link to a directory out": (lambda path: path.symlink_to("/etc"), "not in the folder"),
    "a link to nowhere": (lambda path: path.symlink_to("nowhere"), "cannot be reached"),
    "a circle": (lambda path: path.symlink_to(path.name), "circle"),
    "a circle of directories": (lambda path: path.symlink_to("../d"), "lies itself"),
    "a name with a control character": (lambda path: (path.parent / "a\nb").write_bytes(b""), "control characters"),
    "a name that is no UTF-8": (lambda path: (path.parent / "caf\udce9").write_bytes(b""), "UTF-8"),
    "a link to what is left out": (lambda path: path.symlink_to("..left-out"), "left out"),
    "a link to a document of the registry": (None, "no file of a version"),
}


@pytest.mark.parametrize("what", REFUSED)
async def test_what_cannot_be_uploaded(
    staged: House, me: RegistryClient, project: str, source: Path, what: str
) -> None:
    make, problem = REFUSED[what]
    (source / "d/..left-out").write_bytes(b"")
    if make is None:
        (source / "d/odd").symlink_to(staged.root / project / "..permissions")
    else:
        try:
            make(source / "d/odd")
        except PermissionError:
            pytest.skip("not for this account")
    with pytest.raises(InvalidRequestError, match=problem) as refused:
        await me.upload_staged(project, "asset", "v1", source.name)
    assert refused.value.field == "source"
    assert refused.value.metadata["path"].startswith("d/")
    assert trees.leftovers(staged.root) == []
    assert not (staged.root / project / "asset").exists()
    with pytest.raises(NotFoundError):
        await me.get_version(project, "asset", "v1")


async def test_a_link_of_the_whitelist_must_end_there(
    me: RegistryClient, project: str, source: Path, outside: Path
) -> None:
    (source / "leak").symlink_to(outside / "good/leak")
    with pytest.raises(InvalidRequestError, match="neither in the folder nor in the registry"):
        await me.upload_staged(project, "asset", "v1", source.name)


@pytest.mark.parametrize("name", ["", ".", "..", "no-such", "a/b", "../staging", "/etc", "nul\0"])
async def test_sources_that_cannot_be(me: RegistryClient, project: str, name: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        await me.upload_staged(project, "asset", "v1", name)
    assert refused.value.field == "source"


async def test_a_source_that_is_no_directory(staged: House, me: RegistryClient, project: str, source: Path) -> None:
    (staged.staging / "..file").write_bytes(b"")
    (staged.staging / "..link").symlink_to(source)
    for name in ("..file", "..link"):
        with pytest.raises(InvalidRequestError, match="is no directory"):
            await me.upload_staged(project, "asset", "v1", name)
        (staged.staging / name).unlink()


async def test_whose_directory_it_is(staged: House, me: RegistryClient, project: str, source: Path) -> None:
    async with (
        staged.client("bob") as bob,
        staged.client("bot") as bot,
        staged.client("chief", admin=True) as chief,
    ):
        await chief.set_permissions(project, add_owners=["bob", "alicia"])
        with pytest.raises(ForbiddenError, match="belongs to"):
            await bob.upload_staged(project, "asset", "v1", source.name)
        # who acts as the owner of the directory, or owns it and acts as somebody else
        with pytest.raises(ForbiddenError, match="may not act as"):
            await bob.upload_staged(project, "asset", "v1", source.name, spoof=ME)
        done = await me.upload_staged(project, "asset", "v1", source.name, spoof="alicia")
        assert done.version.upload_user == "alicia"
        if ME != "root":
            done = await bot.upload_staged(project, "asset", "v2", source.name, spoof=ME)
            assert done.version.upload_user == ME
        else:
            with pytest.raises(ForbiddenError, match="may not act as root"):
                await bot.upload_staged(project, "asset", "v2", source.name, spoof=ME)
        done = await chief.upload_staged(project, "asset", "v3", source.name)
        assert done.version.upload_user == "chief"


async def test_a_directory_of_another_account(staged: House, me: RegistryClient, project: str, source: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs to give files away")
    nobody = pwd.getpwnam("nobody")
    os.chown(source, nobody.pw_uid, nobody.pw_gid)
    os.chown(source / "a", nobody.pw_uid, nobody.pw_gid)
    with pytest.raises(ForbiddenError, match="belongs to nobody"):
        await me.upload_staged(project, "asset", "v1", source.name)
    async with staged.client("chief", admin=True) as chief, staged.client("nobody") as owner:
        await chief.set_permissions(project, add_owners=["nobody"])
        await owner.upload_staged(project, "asset", "v1", source.name, consume=True)
    place = staged.root / project / "asset/v1"
    trees.check_version(place, FILES)
    # what its owner could still write to was copied
    assert (place / "a").stat().st_uid == 0


async def test_a_file_that_changes_while_it_is_read(
    staged: House, me: RegistryClient, project: str, source: Path
) -> None:
    """Either it is refused, or what was uploaded is what the manifest says: never something in between."""
    path = source / "d/big"
    ended = asyncio.Event()

    def spoil() -> None:
        with path.open("r+b") as file:
            file.seek(MIB)
            file.write(os.urandom(100))

    async def keep_spoiling() -> None:
        while not ended.is_set():
            await asyncio.to_thread(spoil)

    spoiling = asyncio.create_task(keep_spoiling())
    refusals = 0
    for number in range(10):
        try:
            await me.upload_staged(project, "asset", f"v{number}", source.name)
        except InvalidRequestError as error:
            assert "changes while it is read" in error.message or "changed while it was" in error.message  # noqa: PT017
            refusals += 1
        else:
            place = staged.root / project / f"asset/v{number}"
            trees.check_version(place, trees.contents(place))
    ended.set()
    await spoiling
    assert refusals
    assert trees.leftovers(staged.root) == []


async def test_a_client_that_goes(staged: House, me: RegistryClient, project: str) -> None:
    source = trees.write(staged.staging / f"s-{uuid4().hex[:10]}", {f"f{n}": os.urandom(4 * MIB) for n in range(8)})
    task = asyncio.create_task(me.upload_staged(project, "asset", "v1", source.name))
    async with asyncio.timeout(20):
        while not trees.leftovers(staged.root) and not task.done():
            await asyncio.sleep(0.005)
    task.cancel()
    await asyncio.wait([task])
    async with asyncio.timeout(20):
        while trees.leftovers(staged.root):
            await asyncio.sleep(0.01)
    if task.cancelled():
        # the name is free at once: nobody could go on with it
        await me.upload_staged(project, "asset", "v1", source.name)
    shutil.rmtree(source)


async def test_the_quota(staged: House, me: RegistryClient, project: str, source: Path) -> None:
    async with staged.client("chief", admin=True) as chief:
        await chief.set_quota(project, baseline=MIB, growth_rate=0)
    with pytest.raises(OverloadedError) as refused:
        await me.upload_staged(project, "asset", "v1", source.name, consume=True)
    assert refused.value.reason == "QUOTA_EXCEEDED"
    assert trees.contents(source) == FILES


async def test_a_deployment_without_staging(database_url: str, tmp_path: Path) -> None:
    async with house(database_url, tmp_path, staging=False) as here, here.client("chief", admin=True) as chief:
        with pytest.raises(NotOfferedError):
            await chief.upload_staged("p", "a", "v", "source")


def test_the_whitelist_is_absolute() -> None:
    with pytest.raises(ValueError, match="line 2: 'relative'"):
        Whitelist.parse("/fine\nrelative\n")
