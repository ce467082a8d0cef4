"""The sandbox cache through the PanDA mirror, against a live stack."""

from __future__ import annotations

import gzip
import os
import threading
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from contract.panda_house import NOBODY, Panda
from drayman.pandaclient import Client, settings

_LIMIT = 10 * 1024 * 1024


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where one is."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def sandbox(folder: Path, content: bytes = b"content", name: str | None = None) -> Path:
    """A file to store."""
    path = folder / (name or f"jobO.{uuid4()}.tar.gz")
    path.write_bytes(content)
    return path


def test_there_and_back(panda: Panda, folder: Path) -> None:
    path = sandbox(folder, os.urandom(3_000_000))
    result = Client.putFile(str(path))
    assert result == (0, "True")
    assert type(result[1]) is str
    assert Client.getFile(path.name, str(folder / "copy")) == (0, True)
    assert (folder / "copy").read_bytes() == path.read_bytes()
    content = path.read_bytes()
    path.unlink()
    assert Client.getFile(path.name) == (0, True)
    assert path.read_bytes() == content
    assert {each.name for each in folder.iterdir()} == {path.name, "copy"}


def test_anybody_reads_who_knows_the_name(panda: Panda, folder: Path) -> None:
    path = sandbox(folder)
    Client.putFile(path)
    panda.become()
    assert Client.getFile(path.name, folder / "other") == (0, True)
    panda.be_nobody()
    assert Client.getFile(path.name, folder / "another") == (0, True)


@pytest.mark.parametrize("size", [0, 1, 7, 8, 1024 * 1024, _LIMIT])
def test_sizes(panda: Panda, folder: Path, size: int) -> None:
    path = sandbox(folder, b"x" * size)
    assert Client.putFile(str(path)) == (0, "True")
    assert Client.getFile(path.name, str(folder / "copy")) == (0, True)
    assert (folder / "copy").stat().st_size == size


def test_too_large_to_be_sent(panda: Panda, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = sandbox(folder, b"x" * (_LIMIT + 1))
    with monkeypatch.context() as away:
        away.setenv("DRAYMAN_URL", NOBODY)
        assert Client.putFile(str(path)) == (255, "False"), "nobody is asked"
    sources = sandbox(folder, b"x" * (_LIMIT + 1), f"sources.{uuid4()}.tar.gz")
    assert Client.putFile(str(sources)) == (0, "True")
    assert Client.getFile(sources.name, folder / "copy") == (0, True)
    assert (folder / "copy").stat().st_size == _LIMIT + 1


def test_no_such_file(panda: Panda, folder: Path) -> None:
    with pytest.raises(OSError, match="absent"):
        Client.putFile(str(folder / "absent"))
    with pytest.raises(OSError, match=folder.name):
        Client.putFile(str(folder))


def test_a_name_that_is_taken(panda: Panda, folder: Path) -> None:
    path = sandbox(folder, b"first")
    Client.putFile(str(path))
    path.write_bytes(b"second")
    for _ in range(2):
        status, text = Client.putFile(str(path))
        assert status == 0
        assert text.startswith("ERROR : ")
        assert path.name in text
    panda.become()
    assert Client.putFile(str(path))[1].startswith("ERROR : "), "one namespace for all"
    assert Client.getFile(path.name, str(folder / "copy")) == (0, True)
    assert (folder / "copy").read_bytes() == b"first"
    again = sandbox(folder, b"first", f"{uuid4()}.__ow__")
    assert Client.putFile(str(again)) == (0, "True")
    again.write_bytes(b"second")
    assert Client.putFile(str(again)) == (0, "True")
    assert Client.getFile(again.name, str(folder / "copy")) == (0, True)
    assert (folder / "copy").read_bytes() == b"second"


def test_names_that_cannot_be(panda: Panda, folder: Path) -> None:
    for name in ("a\nb", "\x01", "ä" * 120):
        path = folder / name
        path.write_bytes(b"x")
        status, text = Client.putFile(str(path))
        assert status == 0
        assert text == "True" if name.startswith("ä") else text.startswith("ERROR : ")


def test_the_same_again(panda: Panda, folder: Path) -> None:
    content = gzip.compress(os.urandom(1000), mtime=0)
    path = sandbox(folder, content)
    assert Client.putFile(str(path), reuseSandbox=True) == (0, "True"), "the first time"
    same = sandbox(folder, content)
    assert Client.putFile(str(same), False, True, True) == (0, f"NewFileName:{path.name}")
    assert Client.getFile(same.name, str(folder / "copy"))[0] == 1, "it was not sent"
    assert Client.getFile(path.name, str(folder / "copy")) == (0, True)
    assert Client.putFile(str(same)) == (0, "True"), "without being asked for"
    longer = sandbox(folder, b"x" + content)
    assert Client.putFile(str(longer), reuseSandbox=True) == (0, "True"), "the same end, another size"
    panda.become()
    theirs = sandbox(folder, content)
    assert Client.putFile(str(theirs), reuseSandbox=True) == (0, "True"), "another user never hits"


def test_what_is_no_gzip_is_known_by_its_end(panda: Panda, folder: Path) -> None:
    path = sandbox(folder, b"beginning1 12345678")
    Client.putFile(str(path))
    other = sandbox(folder, b"beginning2 12345678")
    assert Client.putFile(str(other), reuseSandbox=True) == (0, f"NewFileName:{path.name}")
    short = sandbox(folder, b"short")
    assert Client.putFile(str(short), reuseSandbox=True) == (0, "True")


def test_without_a_token(panda: Panda, folder: Path) -> None:
    path = sandbox(folder)
    panda.be_nobody()
    assert Client.putFile(str(path)) == (0, "False")
    assert Client.putFile(str(path), reuseSandbox=True) == (0, "False")
    assert Client.getFile(path.name, str(folder / "copy"))[0] == 1


def test_where_nobody_answers(panda: Panda, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = sandbox(folder)
    monkeypatch.setenv("DRAYMAN_URL", NOBODY)
    status, text = Client.putFile(str(path))
    assert status == 255
    assert text
    status, message = Client.getFile(path.name, str(folder / "copy"))
    assert status == 1
    assert isinstance(message, str)
    assert not (folder / "copy").exists()
    monkeypatch.setenv("DRAYMAN_TOKEN", "nonsense")
    monkeypatch.delenv("DRAYMAN_URL")
    monkeypatch.setenv("PANDA_URL", panda.stack.url)
    assert Client.putFile(str(path))[0] == 255


@pytest.mark.parametrize("name", ["absent", "", "a/b", "../x", "\n", None, 17])
def test_what_is_not_there(panda: Panda, folder: Path, name: Any) -> None:
    (folder / "kept").write_bytes(b"kept")
    status, message = Client.getFile(name, str(folder / "kept"))
    assert status == 1
    assert isinstance(message, str)
    assert message
    assert (folder / "kept").read_bytes() == b"kept"
    assert [each.name for each in folder.iterdir()] == ["kept"]


def test_places_that_cannot_be(panda: Panda, folder: Path) -> None:
    path = sandbox(folder)
    Client.putFile(str(path))
    for target in (folder / "absent" / "x", folder, "\0"):
        status, message = Client.getFile(path.name, str(target))
        assert status == 1
        assert message
    assert [each.name for each in folder.iterdir()] == [path.name]


def test_the_temporary_folder(panda: Panda, folder: Path) -> None:
    path = sandbox(folder)
    Client.putFile(str(path))
    assert Client.setGlobalTmpDir(str(folder / "absent")) is None
    status, message = Client.getFile(path.name, str(folder / "copy"))
    assert status == 1
    assert "absent" in str(message)
    (folder / "absent").mkdir()
    assert Client.getFile(path.name, str(folder / "copy")) == (0, True)
    assert list((folder / "absent").iterdir()) == []
    Client.setGlobalTmpDir(None)
    assert Client.getFile(path.name, str(folder / "copy")) == (0, True)


def test_the_host_of_the_cache(panda: Panda, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = panda.stack.url.rpartition(":")[2]
    monkeypatch.setenv("PANDACACHE_URL", f"grpc://127.0.0.9:{port}/cache")
    assert settings.cache_url() == f"grpc://127.0.0.9:{port}/cache"
    assert Client.setCacheServer("127.0.0.2") is None
    assert settings.cache_url() == f"grpc://127.0.0.2:{port}/cache", "scheme, port and path stay"
    Client.setCacheServer("::1")
    assert settings.cache_url() == f"grpc://[::1]:{port}/cache"
    Client.setCacheServer("127.0.0.1")
    path = sandbox(folder)
    assert Client.putFile(str(path), useCacheSrv=True) == (0, "True")
    assert Client.getFile(path.name, str(folder / "copy")) == (0, True)
    Client.setCacheServer("127.0.0.3")
    assert Client.getFile(path.name, str(folder / "copy"))[0] == 1, "nobody listens there"
    Client.setCacheServer(None)
    assert settings.cache_url() == f"grpc://127.0.0.9:{port}/cache", "as the environment says"


def test_the_cache_follows_an_upload(panda: Panda, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PANDACACHE_URL", NOBODY)
    path = sandbox(folder)
    assert Client.putFile(str(path), useCacheSrv=True)[0] == 255
    assert Client.putFile(str(path)) == (0, "True")
    assert Client.getFile(path.name, str(folder / "copy")) == (0, True)
    monkeypatch.setenv("PANDA_URL_SSL", panda.stack.url.replace("127.0.0.1", "localhost"))
    assert settings.cache_url() == NOBODY, "of that server only"


def test_a_task_uses_its_sandbox(panda: Panda, folder: Path) -> None:
    from contract.panda_house import parameters  # noqa: PLC0415 - for this one

    path = sandbox(folder)
    Client.putFile(str(path))
    task_id = panda.submit(parameters(1, fixedSandbox=path.name, sourceURL=panda.stack.url))
    panda.await_task(task_id, "running")
    with panda.worker() as worker:
        taken = worker.next_job(task_id=task_id, timeout=30)
        assert taken is not None
        assert taken.description.sandboxes == [path.name]


def test_two_threads(panda: Panda, folder: Path) -> None:
    paths = [sandbox(folder, os.urandom(200_000)) for _ in range(4)]
    found: list[Any] = []

    def work(path: Path) -> None:
        found.append(Client.putFile(str(path)))
        found.append(Client.getFile(path.name, str(path.with_suffix(".copy"))))

    threads = [threading.Thread(target=work, args=(path,)) for path in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(str, found)) == sorted([str((0, "True")), str((0, True))] * 4)
    assert all(path.read_bytes() == path.with_suffix(".copy").read_bytes() for path in paths)


def test_verbose_tells_no_secret(panda: Panda, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = sandbox(folder)
    assert Client.putFile(str(path), True) == (0, "True")
    assert Client.getFile(path.name, str(folder / "copy"), True) == (0, True)
    shown = capsys.readouterr().out
    assert "True" in shown
    assert os.environ["DRAYMAN_TOKEN"] not in shown
