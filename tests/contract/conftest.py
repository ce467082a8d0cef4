"""What the tests of the mirrors share."""

from collections.abc import Iterator

import pytest

from contract.panda_house import VARIABLES, Panda
from drayman.pandaclient import settings, token_sources
from drayman.testing import LocalStack


@pytest.fixture
def panda(monkeypatch: pytest.MonkeyPatch, stack: LocalStack) -> Iterator[Panda]:
    """A new user of the shared stack, whom all functions of the mirror find in the environment."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DRAYMAN_URL", stack.url)
    monkeypatch.setattr(token_sources, "_libraries", {})
    monkeypatch.setattr(settings, "_changes", type(settings._changes)())
    house = Panda(stack, monkeypatch)
    house.become()
    yield house
    house.close()
