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
extendedKeyUsage = serverAuth
subjectAltName = {names}
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
"""


class Authority:
    """Signs certificates; `file` is what has to be trusted."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True)
        self._directory = directory
        self.file = self._made("authority", "authority", "DNS:none")

    def server(self, *names: str) -> ssl.SSLContext:
        """For a server of these names, such as `DNS:a.test` or `IP:127.0.0.1`."""
        file = self._made(
            f"server-{len(list(self._directory.iterdir()))}",
            "server",
            ", ".join(names),
            "-CA", str(self.file),
            "-CAkey", str(self.file.with_suffix(".key")),
        )  # fmt: skip
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file, file.with_suffix(".key"))
        return context

    def _made(self, name: str, kind: str, names: str, *signed: str) -> Path:
        file = self._directory / f"{name}.pem"
        extensions = file.with_suffix(".cnf")
        extensions.write_text(_EXTENSIONS.format(names=names))
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
             "-nodes", "-days", "2", "-subj", f"/CN={name}", "-config", str(extensions),
             "-extensions", kind, "-keyout", str(file.with_suffix(".key")), "-out", str(file),
             *signed],
            check=True,
            capture_output=True,
            timeout=60,
        )  # fmt: skip
        return file
