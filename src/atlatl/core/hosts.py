"""Which machines a request may have this one talk to: to fetch code, and to make callbacks.

Else whoever may deploy or call could reach what only this machine reaches. Looking names up and
connecting is the engine's.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence

from atlatl.errors import InvalidRequest
from atlatl.settings import split_host

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

DEFAULT_PORTS = (80, 443)
"""What an entry without a port stands for."""

CALLBACK_HEADER = "Atlatl-Callback-Url"

_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
"""RFC 6052: a gateway sends these on to the IPv4 address in their last 32 bits."""

_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")


def check_host(host: str, port: int, allowed: Sequence[str]) -> None:
    """Raises InvalidRequest unless an entry of `artifacts.allowed_hosts` is for this host.

    Args:
        host: as the URL has it, in ASCII; an IPv6 address without brackets.
        port: the URL's, or its scheme's.
        allowed: the entries.
    """
    if is_listed(host, port, allowed):
        return
    entry = _entry(host, port)
    raise InvalidRequest(
        f"the location's host {entry} is not one that `artifacts.allowed_hosts` lists: add "
        f'"{entry}" there, or send the code itself as a `data:` URL'
    )


def check_addresses(host: str, addresses: Sequence[Address]) -> None:
    """Raises InvalidRequest when a name that is listed leads to an address that is not public.

    Args:
        host: as for `check_host`. One that is an address itself was listed as such.
        addresses: everything that it leads to; one private among them spoils all.
    """
    if as_address(host) is not None:
        return
    private = [address for address in addresses if not is_public(address)]
    if private:
        raise InvalidRequest(
            f"the location's host {host} leads to {private[0]}, which is no public address; if "
            "that is meant, use the address itself in the location and list it in "
            "`artifacts.allowed_hosts`"
        )


def check_callback_host(host: str, port: int, allowed: Sequence[str]) -> None:
    """Raises InvalidRequest when a callback's host can't be right, whatever names lead to.

    Args:
        host: as the URL has it, in ASCII; an IPv6 address without brackets.
        port: the URL's, or its scheme's.
        allowed: the entries of `callbacks.allowed_hosts`: those may be private.
    """
    if is_listed(host, port, allowed):
        return
    address, name = as_address(host), host.lower().rstrip(".")
    if address is not None:
        check_callback_addresses(host, port, [address], allowed)
    elif _NUMBER.fullmatch(name.rpartition(".")[2]):  # `127.1`, as some resolvers would read it
        raise InvalidRequest(
            f"the host {host[:200]} of `{CALLBACK_HEADER}` is neither a name nor an address"
        )
    elif name == "localhost" or name.endswith(".localhost"):  # RFC 6761, 6.3
        raise _private_callback(host, port, "this machine")


def check_callback_addresses(
    host: str, port: int, addresses: Sequence[Address], allowed: Sequence[str]
) -> None:
    """Raises InvalidRequest when a callback's host leads where it may not.

    Args:
        host: as for `check_callback_host`.
        port: as for `check_callback_host`.
        addresses: everything that it leads to; one private among them spoils all.
        allowed: the entries of `callbacks.allowed_hosts`.
    """
    private = [address for address in addresses if not is_public(address)]
    if private and not is_listed(host, port, allowed):
        raise _private_callback(host, port, str(private[0]))


def _private_callback(host: str, port: int, target: str) -> InvalidRequest:
    entry = _entry(host, port)
    leads = "is" if as_address(host) is not None else f"leads to {target}, which is"
    return InvalidRequest(
        f"the host {entry} of `{CALLBACK_HEADER}` {leads} no public address; if that is meant, "
        f'add "{entry}" to `callbacks.allowed_hosts`'
    )


def is_listed(host: str, port: int, allowed: Sequence[str]) -> bool:
    """Whether one of the entries is for this host."""
    return any(_is_for(entry, host.lower().rstrip("."), port) for entry in allowed)


def is_public(address: Address) -> bool:
    """Whether the address is one of the public internet: no private, loopback, link-local,
    multicast, reserved or documentation address, nor IPv6 that stands for such an IPv4 one.

    The ranges are those of the IANA special-purpose registries, as `ipaddress` has them.
    """
    if isinstance(address, ipaddress.IPv6Address):
        inner = _inner(address)
        if inner is not None:
            return is_public(inner)
        return address in _GLOBAL_UNICAST and address.is_global
    return address.is_global and not address.is_multicast and not address.is_reserved


def as_address(host: str) -> Address | None:
    """The address that a host is written as, None when it is a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _inner(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that packets to this one arrive at: mapped, 6to4 (RFC 3056) or NAT64."""
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour


def _is_for(entry: str, host: str, port: int) -> bool:
    name, wanted = split_host(entry)
    if port not in (DEFAULT_PORTS if wanted is None else (wanted,)):
        return False
    address = as_address(host)
    if address is not None:
        return as_address(name) == address
    return host.endswith(name[1:]) if name.startswith("*.") else host == name


def _entry(host: str, port: int) -> str:
    """The entry of a list of hosts that would be for this one."""
    shown = f"[{host}]" if ":" in host else host
    return shown[:200] if port in DEFAULT_PORTS else f"{shown[:200]}:{port}"
