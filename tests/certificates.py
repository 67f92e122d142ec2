"""Certificates of an authority that only a test trusts, made by the machine's `openssl`."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

needs_openssl = pytest.mark.skipif(
    shutil.which("openssl") is None,
    reason="openssl is not installed; get it with: sudo apt-get install openssl",
)

_EXTENSIONS = """
[req]
distinguished_name = nobody
[nobody]
[authority]
basicConstraints = critical, CA:true
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[server]
basicConstraints = critical, CA:false
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth, clientAuth
subjectAltName = {names}
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
"""

_SIGNING = """
[ca]
default_ca = own
[own]
database = {directory}/index
new_certs_dir = {directory}
serial = {directory}/serial
rand_serial = yes
default_md = sha256
policy = any
[any]
commonName = supplied
"""


class Authority:
    """Signs certificates; `file` is what has to be trusted."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True)
        self._directory = directory
        self.file = self._made("authority", "authority", "DNS:none")

    def server(self, *names: str) -> ssl.SSLContext:
        """For a server of these names, such as `DNS:a.test` or `IP:127.0.0.1`."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.pair(*names))
        return context

    def pair(self, *names: str, days: int = 2) -> tuple[Path, Path]:
        """A certificate of these names, for a server or a client, and its key."""
        file = self._made(
            f"server-{len(list(self._directory.iterdir()))}",
            "server",
            ", ".join(names),
            "-CA", str(self.file),
            "-CAkey", str(self.file.with_suffix(".key")),
            days=days,
        )  # fmt: skip
        return file, file.with_suffix(".key")

    def expired(self) -> tuple[Path, Path]:
        """A pair that was good for a day, long ago."""
        file, key = self.pair("DNS:expired")
        request = file.with_suffix(".csr")
        (self._directory / "index").write_text("")
        settings = self._directory / "ca.cnf"
        settings.write_text(_SIGNING.format(directory=self._directory))
        _openssl("req", "-new", "-key", key, "-subj", "/CN=expired", "-out", request)
        _openssl(
            "ca", "-batch", "-config", settings, "-in", request, "-out", file,
            "-notext", "-cert", self.file, "-keyfile", self.file.with_suffix(".key"),
            "-startdate", "20200101000000Z", "-enddate", "20200102000000Z",
        )  # fmt: skip
        return file, key

    def trusting(self) -> ssl.SSLContext:
        """For a client that believes this authority and no other."""
        return ssl.create_default_context(cafile=str(self.file))

    def _made(self, name: str, kind: str, names: str, *signed: str, days: int = 2) -> Path:
        file = self._directory / f"{name}.pem"
        extensions = file.with_suffix(".cnf")
        extensions.write_text(_EXTENSIONS.format(names=names))
        _openssl(
            "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
            "-nodes", "-days", days, "-subj", f"/CN={name}", "-config", extensions,
            "-extensions", kind, "-keyout", file.with_suffix(".key"), "-out", file,
            *signed,
        )  # fmt: skip
        return file


def _openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, timeout=60)
