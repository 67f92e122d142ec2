"""One service for each user, for all attacks; looked after before and after each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.hostile.stand import USERS, Stand, standing


@pytest.fixture(scope="session")
def stands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Stand]]:
    """Services by the user that they run as, each started when it is first asked for."""
    with ExitStack() as open_ones:
        found: dict[str, Stand] = {}

        def of(user: str) -> Stand:
            if user not in found:
                directory = tmp_path_factory.mktemp(f"hostile-{user}")
                found[user] = open_ones.enter_context(standing(user, directory))
            return found[user]

        yield of


@pytest.fixture(params=USERS)
def stand(request: pytest.FixtureRequest, stands: Callable[[str], Stand]) -> Iterator[Stand]:
    """Fails when the attack has left anything, or harmed the service or its good function."""
    stand = stands(request.param)
    before = stand.well()
    yield stand
    stand.clean()
    stand.good_goes_on()
    assert stand.well() == before
