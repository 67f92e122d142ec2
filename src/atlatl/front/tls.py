"""The certificate that both fronts show, taken anew when its files change."""

from __future__ import annotations

import logging
import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from atlatl.errors import SettingInvalid
from atlatl.front.tokens import Stamp, stamp_of

if TYPE_CHECKING:
    import grpc

    from atlatl.settings import TlsSettings

log = logging.getLogger(__name__)

_LONE_CERTIFICATE = 0x80000
"""X509_V_FLAG_PARTIAL_CHAIN: what is trusted need not be an authority. Python 3.11 has no name."""

_END = b"-----END CERTIFICATE-----"


class Pair(NamedTuple):
    """A certificate that is known to fit its key."""

    context: ssl.SSLContext
    chain: bytes
    key: bytes
    clients: bytes | None
    """Authorities whose certificates clients have to show; None asks for none."""


class Certificates:
    """Keeps what the files held when they last fitted together.

    New connections get the newest pair; those that are there keep the one they began with.

    Args:
        settings: with `cert_file` and `key_file`.

    Raises:
        SettingInvalid: a file cannot be read, or certificate and key do not fit.

    Attributes:
        context: for a server of HTTP; always the same one, whatever the files hold.
    """

    def __init__(self, settings: TlsSettings) -> None:
        self._settings = settings
        self._stamps = self._look_at_files()
        self._pair = load(settings)
        self._told = ""
        self.context = self._pair.context
        # Asked in each handshake, with or without a name in it.
        self.context.sni_callback = self._choose

    def _choose(self, connection: Any, name: str | None, context: ssl.SSLContext) -> None:
        connection.context = self._pair.context

    def look(self) -> None:
        """Takes over what has changed, unless it does not fit together; never raises.

        What could not be read is read again at each look: what was in the way may pass.
        """
        stamps = self._look_at_files()
        if stamps == self._stamps:
            return
        try:
            self._pair = load(self._settings)
        except SettingInvalid as error:
            if error.message != self._told:
                self._told = error.message
                log.warning("%s; the certificate stays as it was", error.message)
        else:
            self._stamps, self._told = stamps, ""
            log.info(
                "new connections get the certificate that now is in %s", self._settings.cert_file
            )

    def _look_at_files(self) -> list[Stamp]:
        return [stamp_of(Path(name)) for name in _files(self._settings).values()]

    def for_grpc(self) -> grpc.ServerCredentials:
        """The same for a server of gRPC."""
        # Imported late: the command line has no use for it.
        import grpc

        shown = self._pair

        def configured(pair: Pair) -> grpc.ServerCertificateConfiguration:
            return grpc.ssl_server_certificate_configuration(
                [(pair.key, pair.chain)], root_certificates=pair.clients
            )

        def newest() -> Any:
            """Asked before each handshake, in threads of gRPC; None changes nothing."""
            nonlocal shown
            if shown is self._pair:
                return None
            shown = self._pair
            return configured(shown)

        return grpc.dynamic_ssl_server_credentials(
            configured(shown), newest, require_client_authentication=shown.clients is not None
        )


def _files(settings: TlsSettings) -> dict[str, str]:
    named = {name: getattr(settings, name) for name in settings.__struct_fields__}
    return {name: file for name, file in named.items() if file}


def load(settings: TlsSettings) -> Pair:
    """What the files hold now; each is read once, so that what was checked is what is shown.

    Raises:
        SettingInvalid: a file cannot be read, or certificate and key do not fit.
    """
    contents = {}
    for name, file in _files(settings).items():
        try:
            contents[name] = Path(file).read_bytes()
        except OSError as error:
            raise SettingInvalid(f"`tls.{name}` {file} cannot be read: {error.strerror}") from None
    chain, key = contents["cert_file"], contents["key_file"]
    clients = contents.get("client_ca_file")
    return Pair(_context(settings, chain, key, clients), chain, key, clients)


def _context(
    settings: TlsSettings, chain: bytes, key: bytes, clients: bytes | None
) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        with _as_file(chain) as chain_file, _as_file(key) as key_file:
            context.load_cert_chain(chain_file, key_file, password=_no_password)
    except (ssl.SSLError, ValueError) as error:
        raise SettingInvalid(
            f"`tls.cert_file` {settings.cert_file} and `tls.key_file` {settings.key_file} are no "
            f"certificate and its key, in PEM and without a password: {_reason(error)}"
        ) from None
    if clients is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        # A session that is taken up again would not be asked for its certificate.
        context.num_tickets = 0
        context.options |= ssl.OP_NO_TICKET
        try:
            context.load_verify_locations(cadata=_pem(clients))
        except (ssl.SSLError, ValueError) as error:
            raise SettingInvalid(
                f"`tls.client_ca_file` {settings.client_ca_file} has no certificates in PEM: "
                f"{_reason(error)}"
            ) from None
    return context


def _no_password() -> str:
    raise ValueError("the key has a password")


def _pem(content: bytes) -> str:
    """Without the letters of comments that ASCII does not have: lists of authorities name them."""
    return content.decode("ascii", "ignore")


def _reason(error: Exception) -> str:
    return getattr(error, "reason", None) or str(error)


@contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """A path under which the bytes can be read once more; OpenSSL takes no others."""
    descriptor = os.memfd_create("tls")
    try:
        with os.fdopen(descriptor, "wb", closefd=False) as file:
            file.write(content)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def trusting_only(chain: bytes) -> ssl.SSLContext:
    """What a client needs that talks to the holder of this certificate, under whatever name.

    Args:
        chain: in PEM; only its first certificate is trusted.

    Raises:
        ValueError: it has none.
    """
    first, found, _ = chain.partition(_END)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= _LONE_CERTIFICATE
    try:
        context.load_verify_locations(cadata=_pem(first + found))
    except ssl.SSLError as error:
        raise ValueError(_reason(error)) from None
    return context


def expiry(settings: TlsSettings) -> float:
    """Unix seconds at which the certificate ends, found out by a handshake in memory.

    Raises:
        SettingInvalid: see `load`; or nobody would accept the certificate, because it has ended
            or its time has not come yet.
    """
    pair = load(settings)
    server = _context(settings, pair.chain, pair.key, None)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    asked = server.wrap_bio(to_server, to_client, server_side=True)
    asking = trusting_only(pair.chain).wrap_bio(to_client, to_server)
    try:
        while not all([_done(asking), _done(asked)]):  # both, in turn
            pass
    except ssl.SSLError as error:
        why = getattr(error, "verify_message", "") or _reason(error)
        raise SettingInvalid(f"`tls.cert_file` {settings.cert_file}: {why}") from None
    shown = asking.getpeercert() or {}
    return float(ssl.cert_time_to_seconds(str(shown["notAfter"])))


def _done(side: ssl.SSLObject) -> bool:
    try:
        side.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True
