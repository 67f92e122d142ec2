"""Readiness while the functions of a directory are deployed at start."""

from __future__ import annotations

from atlatl import FunctionService, Settings


def test_a_service_that_is_busy_says_with_what() -> None:
    service = FunctionService(Settings(data_dir="unused"))
    service.busy_with = "the functions in DIR are being deployed"
    assert service.ready() == (False, "the functions in DIR are being deployed")
    service.busy_with = ""
    assert service.ready() == (False, "the service is not open")
