import time
from pathlib import Path

import pytest

from drayman.server.platform.errors import Refusal
from drayman.server.platform.settings import SettingsError
from drayman.server.platform.trust import Caller
from drayman.server.registry.spoofing import Actor, Spoofing


@pytest.mark.parametrize(
    ("text", "name", "user", "allowed"),
    [
        ("a:b,c", "a", "b", True),
        ("a:b,c", "a", "c", True),
        ("a:b,c", "a", "d", False),
        ("a:b,c", "b", "a", False),
        ("a:b,c", "a", "a", True),
        ("a:*", "a", "anybody", True),
        ("a:*,-b", "a", "b", False),
        ("a:-b,*", "a", "c", True),
        ("a:b,-c", "a", "c", False),
        ("a:b,-b", "a", "b", True),
        ("a:b\na:c", "a", "b", False),
        ("a:b\na:", "a", "b", True),
        ("# who may act as whom\n\na : b , c\n", "a", "c", True),
        ("", "a", "b", False),
    ],
)
def test_who_may_act_as_whom(text: str, name: str, user: str, allowed: bool) -> None:
    assert Spoofing.parse(text).allows(name, user) is allowed


@pytest.mark.parametrize("line", ["a", "a:b:c", ":b", "a:b,,c", "a:-", "a:*,"])
def test_lines_that_say_nothing_clear_are_refused(line: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="line 2"):
        Spoofing.parse(f"x:y\n{line}\n")
    (tmp_path / "spoof").write_text(line)
    with pytest.raises(SettingsError, match="registry_spoof"):
        Spoofing.load(str(tmp_path / "spoof"))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="No such file"):
        Spoofing.load(str(tmp_path / "nothing"))
    (tmp_path / "latin").write_bytes(b"a:\xe9")
    with pytest.raises(SettingsError, match="registry_spoof"):
        Spoofing.load(str(tmp_path / "latin"))
    assert not Spoofing.load("").allows("a", "b")


def test_nobody_is_an_administrator_in_another_name() -> None:
    rules = Spoofing.parse("chief:*")
    chief = Caller("chief", admin=True, roles=frozenset(), expires=time.time() + 60, token="")
    assert rules.actor(chief, "") == Actor("chief", admin=True)
    assert rules.actor(chief, "chief") == Actor("chief", admin=True)
    assert rules.actor(chief, "ann") == Actor("ann", admin=False)
    ann = Caller("ann", admin=False, roles=frozenset(), expires=time.time() + 60, token="")
    with pytest.raises(Refusal, match="ann may not act as chief") as refused:
        rules.actor(ann, "chief")
    assert refused.value.reason == "SPOOFING_REFUSED"
