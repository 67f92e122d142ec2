"""What a request may name as the place of its code."""

from __future__ import annotations

import base64
from pathlib import Path
from urllib.parse import quote

import pytest

from atlatl.engine.sources import Source
from atlatl.errors import (
    ArtifactInvalid,
    ArtifactNotFound,
    AtlatlError,
    ChecksumMismatch,
    InvalidRequest,
    UnsupportedOperation,
)
from tests.shelf_samples import CODE, on_shelf, zipped
from tests.store_samples import sha256


def fetch(location: str, tmp_path: Path, checksum: str = "", **limits: object) -> Source:
    return on_shelf(tmp_path / "data", lambda shelf, _: shelf.fetch(location, checksum), **limits)


def test_a_local_location_needs_an_allowed_directory(tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    for path in (tmp_path / "hello.py", project / "app.py"):
        path.write_bytes(CODE)
    for location in (f"{tmp_path}/hello.py", f"file://{tmp_path}/hello.py", "/etc/nothing-here"):
        with pytest.raises(InvalidRequest, match=r"artifacts\.allowed_dirs"):
            fetch(location, tmp_path)
    allowed = {"allowed_dirs": (str(tmp_path),)}
    for location in (f"{tmp_path}/hello.py", f"file://localhost{quote(str(tmp_path))}/hell%6f.py"):
        assert fetch(location, tmp_path, **allowed).content == CODE
    assert fetch(str(project), tmp_path, **allowed).filename == "project.zip"
    with pytest.raises(ArtifactNotFound):
        fetch(f"{tmp_path}/nowhere.py", tmp_path, **allowed)


def test_links_do_not_lead_out_of_an_allowed_directory(tmp_path: Path) -> None:
    (tmp_path / "secret.py").write_bytes(CODE)
    allowed = tmp_path / "allowed"
    allowed.mkdir()
    (allowed / "link.py").symlink_to(tmp_path / "secret.py")
    (allowed / "up").symlink_to(tmp_path)
    (allowed / "circle.py").symlink_to("circle.py")
    for name in ("link.py", "up/secret.py", "../secret.py", "%2e%2e/secret.py"):
        with pytest.raises(InvalidRequest):
            fetch(f"file://{allowed}/{name}", tmp_path, allowed_dirs=(str(allowed),))
    with pytest.raises(AtlatlError):
        fetch(f"{allowed}/circle.py", tmp_path, allowed_dirs=(str(allowed),))


@pytest.mark.parametrize(
    ("head", "content", "filename"),
    [
        ("text/x-python;base64", CODE, "main.py"),
        (";base64", CODE, "main.py"),
        ("application/zip;base64", zipped({"app.py": CODE}), "main.zip"),
        (";base64", zipped({"app.py": CODE}), "main.zip"),
        ("application/octet-stream;name=hello.py;base64", CODE, "hello.py"),
        ('text/plain;charset=utf-8;name="hello.py";base64', CODE, "hello.py"),
        ("application/octet-stream;name=x.zip;base64", zipped({"a.py": CODE}), "x.zip"),
    ],
)
def test_data_urls_carry_the_code(tmp_path: Path, head: str, content: bytes, filename: str) -> None:
    source = fetch(f"data:{head},{base64.b64encode(content).decode()}", tmp_path)
    assert (source.content, source.filename) == (content, filename)


def test_data_urls_may_be_percent_encoded(tmp_path: Path) -> None:
    source = fetch("data:text/x-python," + quote(CODE.decode()), tmp_path)
    assert (source.content, source.filename) == (CODE, "main.py")


@pytest.mark.parametrize(
    ("location", "error"),
    [
        ("", InvalidRequest),
        ("hello.py", InvalidRequest),
        ("../hello.py", InvalidRequest),
        ("data:text/x-python;base64", InvalidRequest),
        ("data:;base64,a!b", InvalidRequest),
        ("data:;base64,YQ=", InvalidRequest),
        ("file://elsewhere/x.py", InvalidRequest),
        ("file:relative.py", InvalidRequest),
        ("file:///x%00.py", InvalidRequest),
        ("https://example.com/x.zip", InvalidRequest),
        ("sms+file://17", UnsupportedOperation),
        ("data:,0123456789", ArtifactInvalid),
    ],
)
def test_other_locations_are_refused(
    tmp_path: Path, location: str, error: type[AtlatlError]
) -> None:
    with pytest.raises(error):
        fetch(location, tmp_path, max_bytes=9)


def test_the_checksum_is_compared_without_regard_to_case_d62(tmp_path: Path) -> None:
    location = "data:," + quote(CODE.decode())
    assert fetch(location, tmp_path, sha256(CODE).upper()).checksum == sha256(CODE)
    with pytest.raises(ChecksumMismatch, match=f"{sha256(CODE)}.*{'0' * 64}"):
        fetch(location, tmp_path, "0" * 64)
