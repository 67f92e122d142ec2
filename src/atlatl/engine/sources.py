"""Where code comes from: a path, bytes, or a `location` on this machine or with its data in it.

Everything here may wait for the disk: call it from a thread.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, unquote_to_bytes, urlsplit

from atlatl.core.archives import check_name
from atlatl.engine.zips import open_checked, pack, read_regular
from atlatl.errors import (
    ArtifactInvalid,
    ArtifactNotFound,
    ChecksumMismatch,
    InvalidRequest,
    UnsupportedOperation,
)
from atlatl.model import Record
from atlatl.settings import ArtifactSettings

_ZIP_TYPES = ("application/zip", "application/x-zip-compressed", "application/x-zip")
_PYTHON_TYPES = ("text/x-python", "text/x-script.python", "application/x-python", "text/plain")


class Source(Record, frozen=True):
    """Code as it arrived: one `.py` file, or a directory packed as `.zip`."""

    content: bytes
    filename: str
    """Tells the kind by its ending."""
    checksum: str
    """Hex SHA-256 of `content`."""


def check_checksum(source: Source, expected: str) -> None:
    """Raises ChecksumMismatch unless the source has this hex SHA-256; empty is unchecked."""
    if expected and expected.strip().lower() != source.checksum:
        raise ChecksumMismatch(
            f"{source.filename} has SHA-256 {source.checksum}, the request says {expected}"
        )


def from_bytes(content: bytes, filename: str, limits: ArtifactSettings) -> Source:
    """The source, its kind checked.

    Args:
        content: the file.
        filename: its name, or empty to tell the kind from the content.
        limits: `max_bytes` and `max_files` count.

    Raises:
        ArtifactInvalid: too large, or an archive that may not be unpacked.
        UnsupportedOperation: a kind of artifact that nothing here runs.
    """
    name = filename.rpartition("/")[2] or _sniffed_name(content)
    if len(content) > limits.max_bytes:
        raise ArtifactInvalid(
            f"{name} has {len(content)} bytes, `artifacts.max_bytes` allows {limits.max_bytes}"
        )
    check_name(name)
    if name.endswith(".zip"):
        open_checked(content, limits).close()
    elif not name.endswith(".py"):
        raise UnsupportedOperation(
            f"{name} can't be run: deploy a `.py` file, a `.zip` archive or a directory"
        )
    return Source(content=content, filename=name, checksum=hashlib.sha256(content).hexdigest())


def from_path(path: Path, limits: ArtifactSettings, within: Sequence[Path] = ()) -> Source:
    """The file, or the directory packed as a zip.

    Raises:
        ArtifactNotFound: nothing is there.
        ArtifactInvalid: it can't be read, is too large, or is an unsafe archive.
        InvalidRequest: it is outside of all directories in `within`.
    """
    try:
        path = path.expanduser().resolve()
    except (OSError, RuntimeError, ValueError) as error:  # links in a circle, no such user, a NUL
        raise ArtifactInvalid(f"{str(path)[:200]!r} can't be resolved: {error}") from None
    if within and not any(path.is_relative_to(one) for one in within):
        raise InvalidRequest(f"{path} is outside the allowed directories")
    if path.is_dir():
        return from_bytes(pack(path, limits), f"{path.name or 'root'}.zip", limits)
    return from_bytes(read_regular(path, limits.max_bytes, within), path.name, limits)


def from_location(location: str, limits: ArtifactSettings) -> Source:
    """What a request's `location` names: an allowed local path, `file://` or a `data:` URL.

    Raises:
        InvalidRequest: no location, a malformed one, or a path outside
            `artifacts.allowed_dirs`.
        UnsupportedOperation: a scheme that nothing here fetches.
        ArtifactNotFound: nothing is there.
        ArtifactInvalid: see `from_path`.
    """
    if not location:
        raise InvalidRequest(
            "the artifact has no location: give a path, an `https:` URL or a `data:` URL"
        )
    try:
        location.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"the location is no Unicode: {error}") from None
    scheme, _, rest = location.partition(":")
    if location.startswith("/"):
        return _from_allowed(Path(location), limits)
    if scheme.lower() == "data" and rest:
        return _from_data(rest, limits)
    if scheme.lower() == "file" and rest:
        return _from_allowed(_path_of_url(location), limits)
    if "://" in location:
        raise UnsupportedOperation(
            f"locations of the kind `{scheme[:50]}:` are not fetched: give a path below one of "
            "`artifacts.allowed_dirs`, an `https:` URL of one of `artifacts.allowed_hosts`, or "
            "the code itself as a `data:` URL"
        )
    raise InvalidRequest(
        f"location {location[:200]!r} is neither an absolute path nor a URL: give one of them"
    )


def _path_of_url(url: str) -> Path:
    try:
        parts = urlsplit(url)
        path = unquote(parts.path)
    except ValueError:  # of brackets
        path = ""
    if not path.startswith("/") or parts.netloc not in ("", "localhost") or "\0" in path:
        raise InvalidRequest(f"location {url[:200]!r} names no local file: use file:///path")
    return Path(path)


def _from_allowed(path: Path, limits: ArtifactSettings) -> Source:
    allowed = [Path(one).expanduser().resolve() for one in limits.allowed_dirs]
    try:
        place = path.resolve()
    except (OSError, RuntimeError, ValueError) as error:  # links in a circle, a NUL
        raise InvalidRequest(f"location {str(path)[:200]!r} can't be resolved: {error}") from None
    # Checked before existence, so that the answer tells nothing about other files.
    if not any(place.is_relative_to(one) for one in allowed):
        raise InvalidRequest(
            f"location {str(path)[:200]} is not below a directory that `artifacts.allowed_dirs` "
            "lists: add its directory there, or send the code itself as a `data:` URL"
        )
    if not _exists(place):
        raise ArtifactNotFound(f"nothing is at the location {str(path)[:200]}")
    return from_path(place, limits, within=allowed)


def _exists(place: Path) -> bool:
    try:
        return place.exists()
    except OSError:  # a name that is too long for any file
        return False


def _from_data(rest: str, limits: ArtifactSettings) -> Source:
    """Reads what follows `data:` (RFC 2397), with `;name=` as browsers and mailers use it."""
    head, comma, body = rest.partition(",")
    if not comma:
        raise InvalidRequest("the location is a `data:` URL without a comma before its data")
    if len(body) > limits.max_bytes * 3:  # percent-encoded at worst
        raise ArtifactInvalid(
            f"the `data:` URL is larger than `artifacts.max_bytes` ({limits.max_bytes}) allows"
        )
    media_type, *parameters = (part.strip() for part in head.split(";"))
    content = unquote_to_bytes(body)
    if parameters and parameters[-1].lower() == "base64":
        content = _base64(content)
    named = dict(part.partition("=")[::2] for part in parameters)
    name = unquote(named.get("name", "")).strip('"') or _name_of_type(media_type.lower())
    return from_bytes(content, name, limits)


def _base64(text: bytes) -> bytes:
    try:
        return base64.b64decode(b"".join(text.split()), validate=True)
    except binascii.Error as error:
        raise InvalidRequest(f"the `data:` URL is not valid base64: {error}") from None


def _name_of_type(media_type: str) -> str:
    if media_type in _ZIP_TYPES:
        return "main.zip"
    return "main.py" if media_type in _PYTHON_TYPES else ""


def _sniffed_name(content: bytes) -> str:
    return "main.zip" if content.startswith((b"PK\x03\x04", b"PK\x05\x06")) else "main.py"
