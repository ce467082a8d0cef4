from pathlib import Path

import pytest

from drayman.server.platform.settings import SettingsError
from drayman.server.registry.whitelist import Whitelist


def test_what_it_covers(tmp_path: Path) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    for folder in (good, bad, tmp_path / "goodness"):
        folder.mkdir()
    (bad / "secret").write_bytes(b"")
    (good / "leak").symlink_to(bad / "secret")
    (good / "within").symlink_to("file")
    listed = Whitelist.parse(f"\n# lasting\n{good}/\n")
    assert listed.folders == (good,)
    assert listed.covers(str(good / "file"))
    assert listed.covers(str(good / "within"))
    assert not listed.covers(str(good))
    assert not listed.covers(str(good / "leak"))
    assert not listed.covers(str(bad / "secret"))
    assert not listed.covers(str(tmp_path / "goodness/file"))


def test_a_folder_that_is_a_link_itself(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "way").symlink_to("real")
    assert Whitelist.parse(str(tmp_path / "way")).covers(str(tmp_path / "way/file"))


def test_where_a_path_ends(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "way").symlink_to("real")
    (tmp_path / "real/within").symlink_to("file")
    (tmp_path / "real/leak").symlink_to("../secret")
    listed = Whitelist.parse(str(tmp_path / "way"))
    assert listed.end_of(str(tmp_path / "way/within")) == (tmp_path / "real", tmp_path / "real/file")
    assert listed.end_of(str(tmp_path / "way/leak")) is None
    # what lay there when it was found
    (tmp_path / "real/within").unlink()
    (tmp_path / "real/within").symlink_to("../secret")
    assert listed.end_of(str(tmp_path / "way/within")) is None


@pytest.mark.parametrize("line", ["relative", "./here", "~/there"])
def test_relative_folders_are_refused(line: str, tmp_path: Path) -> None:
    (tmp_path / "list").write_text(f"/fine\n{line}\n")
    with pytest.raises(SettingsError, match=r"registry_whitelist .* line 2: .* absolute path"):
        Whitelist.load(str(tmp_path / "list"))
    with pytest.raises(SettingsError, match="No such file"):
        Whitelist.load(str(tmp_path / "nothing"))
    assert Whitelist.load("").folders == ()
