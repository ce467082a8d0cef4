"""One database, one folder: a process with a folder of its own does not start."""

import re
import shutil
from pathlib import Path
from uuid import UUID

import pytest

from drayman.server.platform.settings import SettingsError
from service.registry.house import house


def _id(root: Path) -> UUID:
    return UUID((root / "..registry-id").read_text().strip())


async def test_a_second_folder_is_refused(module_database: str, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    async with house(module_database, first):
        mark = _id(first / "registry")
        # another process on the same folder
        async with house(module_database, first):
            assert _id(first / "registry") == mark
        with pytest.raises(SettingsError, match="DRAYMAN_REGISTRY") as refused:
            async with house(module_database, second):
                pass
    assert str(first / "registry") in str(refused.value)
    assert not (second / "registry/..registry-id").exists()

    # moved: it is still the same
    moved = tmp_path / "moved"
    (first / "registry").rename(moved)
    async with house(module_database, second, registry=str(moved)):
        assert _id(moved) == mark

    # restored without its id: as the refusal says
    (moved / "..registry-id").unlink()
    with pytest.raises(SettingsError) as refused:
        async with house(module_database, second, registry=str(moved)):
            pass
    told = re.search(r"write (\S+) into (\S+)$", str(refused.value))
    assert told is not None
    Path(told[2]).write_text(told[1])
    async with house(module_database, second, registry=str(moved)):
        pass
    shutil.rmtree(moved)
    with pytest.raises(SettingsError):
        async with house(module_database, second, registry=str(moved)):
            pass


async def test_what_has_an_id_comes_to_a_new_database(database_url: str, tmp_path: Path) -> None:
    """As a registry that is adopted again after its database was lost."""
    (tmp_path / "registry").mkdir()
    (tmp_path / "registry/..registry-id").write_text("00000000-0000-0000-0000-000000000007\n")
    async with house(database_url, tmp_path):
        assert _id(tmp_path / "registry") == UUID(int=7)
