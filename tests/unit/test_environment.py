"""Environment variables that no process can have."""

from __future__ import annotations

import pytest

from atlatl.errors import SettingInvalid
from atlatl.settings import Settings, check_environment, task_settings


@pytest.mark.parametrize(
    "variables", [{"": "x"}, {"A=B": "x"}, {"A\0": "x"}, {"A": "\0"}, {"A": "\ud800"}]
)
def test_an_impossible_variable_is_refused_by_name(variables: dict[str, str]) -> None:
    (name,) = variables
    with pytest.raises(SettingInvalid) as caught:
        task_settings(Settings(), {"env": variables})
    assert f"environment variable {name!r} cannot be set" in str(caught.value)


def test_all_else_is_possible() -> None:
    check_environment({"A": "", "a.b-c d": "x=y\n", "ü": "ü"})
