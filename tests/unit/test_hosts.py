"""Which hosts and addresses code may be fetched from, and callbacks made to (D105)."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from atlatl.core.hosts import (
    check_addresses,
    check_callback_addresses,
    check_callback_host,
    check_host,
    is_public,
)
from atlatl.errors import InvalidRequest, SettingInvalid
from atlatl.settings import ArtifactSettings, CallbackSettings, parse

PUBLIC = """
93.184.216.34 8.8.8.8 1.1.1.1 172.15.0.1 172.32.0.1 100.63.0.1 100.128.0.1 223.255.255.254
2606:4700::1111 2a00:1450:4001::1 ::ffff:8.8.8.8 64:ff9b::808:808 2002:808:808::1
"""

NOT_PUBLIC = """
127.0.0.1 127.255.255.254 0.0.0.0 0.1.2.3 10.0.0.1 172.16.0.1 172.31.255.255 192.168.1.1
169.254.169.254 100.64.0.1 192.0.0.1 192.0.2.1 198.18.0.1 198.51.100.1 203.0.113.1 224.0.0.1
239.255.255.250 240.0.0.1 255.255.255.255
:: ::1 fe80::1 fe80::1%eth0 fec0::1 fc00::1 fd12:3456::1 ff02::1 ff0e::1 100::1 2001:db8::1
2001::1 4000::1 ::127.0.0.1 ::8.8.8.8
::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:169.254.169.254 ::ffff:0.0.0.0 ::ffff:224.0.0.1
64:ff9b::7f00:1 64:ff9b::a00:1 64:ff9b:1::808:808 2002:7f00:1::1 2002:a9fe:a9fe::1
"""


@pytest.mark.parametrize("address", PUBLIC.split())
def test_public_addresses_d105(address: str) -> None:
    assert is_public(ip_address(address))


@pytest.mark.parametrize("address", NOT_PUBLIC.split())
def test_addresses_that_are_not_public_d105(address: str) -> None:
    assert not is_public(ip_address(address))


@pytest.mark.parametrize(
    ("entry", "host", "port"),
    [
        ("example.org", "example.org", 443),
        ("example.org", "example.org", 80),
        ("Example.ORG.", "EXAMPLE.org", 443),
        ("example.org", "example.org.", 443),
        ("example.org:8443", "example.org", 8443),
        ("*.example.org", "a.example.org", 443),
        ("*.example.org", "a.b.example.org", 443),
        ("*.example.org:81", "a.example.org", 81),
        ("127.0.0.1:9000", "127.0.0.1", 9000),
        ("[::1]:9000", "0:0::1", 9000),
        ("[2606:4700::1]", "2606:4700::1", 443),
    ],
)
def test_an_entry_is_for_a_host(entry: str, host: str, port: int) -> None:
    check_host(host, port, ["elsewhere.test", entry])


@pytest.mark.parametrize(
    ("entry", "host", "port"),
    [
        ("example.org", "example.org", 8443),
        ("example.org:8443", "example.org", 443),
        ("example.org", "a.example.org", 443),
        ("example.org", "example.org.evil.test", 443),
        ("example.org", "evilexample.org", 443),
        ("*.example.org", "example.org", 443),
        ("*.example.org", "evilexample.org", 443),
        ("*.0.0.1", "127.0.0.1", 80),
        ("127.0.0.1", "::ffff:127.0.0.1", 80),
        ("127.0.0.1", "127.1", 80),
        ("127.0.0.1", "2130706433", 80),
        ("127.0.0.1", "localhost", 80),
    ],
)
def test_an_entry_is_not_for_a_host(entry: str, host: str, port: int) -> None:
    with pytest.raises(InvalidRequest, match=r"`artifacts\.allowed_hosts`"):
        check_host(host, port, [entry])


def test_the_refusal_says_what_to_list() -> None:
    with pytest.raises(InvalidRequest, match=r'add "example\.org" there'):
        check_host("example.org", 443, [])
    with pytest.raises(InvalidRequest, match=r'add "\[::1\]:9000" there'):
        check_host("::1", 9000, [])


def test_one_private_address_of_a_name_spoils_all_d105() -> None:
    check_addresses("example.org", [ip_address("8.8.8.8"), ip_address("2606:4700::1")])
    with pytest.raises(InvalidRequest, match=r"example\.org leads to 10\.0\.0\.1"):
        check_addresses("example.org", [ip_address("8.8.8.8"), ip_address("10.0.0.1")])


def test_an_address_that_is_listed_as_such_may_be_private() -> None:
    check_addresses("127.0.0.1", [ip_address("127.0.0.1")])
    check_addresses("::1", [ip_address("::1")])


@pytest.mark.parametrize("address", NOT_PUBLIC.split())
def test_callbacks_to_an_address_that_is_not_public_d105(address: str) -> None:
    with pytest.raises(InvalidRequest, match=r"`Atlatl-Callback-Url`.*`callbacks\.allowed_hosts`"):
        check_callback_host(address, 8080, ["elsewhere.test", "10.0.0.1:80"])


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST.", "a.localhost", "localhost."])
def test_callbacks_to_this_machine_by_name_d105(host: str) -> None:
    with pytest.raises(InvalidRequest, match="leads to this machine"):
        check_callback_host(host, 80, [])


@pytest.mark.parametrize("host", ["127.1", "2130706433", "0x7f.1", "127.0.0.1.", "10.0.0.0x1", "1"])
def test_numbers_that_some_resolvers_take_for_addresses_d105(host: str) -> None:
    with pytest.raises(InvalidRequest, match="neither a name nor an address"):
        check_callback_host(host, 80, [])


@pytest.mark.parametrize(
    ("entry", "host", "port"),
    [
        ("127.0.0.1:9000", "127.0.0.1", 9000),
        ("10.0.0.7", "10.0.0.7", 443),
        ("[::1]:9000", "::1", 9000),
        ("localhost:9000", "localhost", 9000),
        ("*.internal", "hooks.internal", 80),
    ],
)
def test_a_listed_host_may_be_private(entry: str, host: str, port: int) -> None:
    check_callback_host(host, port, [entry])
    check_callback_addresses(host, port, [ip_address("10.0.0.1")], [entry])
    with pytest.raises(InvalidRequest):
        check_callback_addresses(host, port + 1, [ip_address("10.0.0.1")], [entry])


def test_public_hosts_take_callbacks_on_any_port() -> None:
    for host in ("example.org", "xn--bcher-kva.example", "8.8.8.8", "2606:4700::1111", "a1"):
        check_callback_host(host, 8443, [])
    check_callback_addresses("example.org", 8443, [ip_address("8.8.8.8")], [])


def test_one_private_address_spoils_a_callback_and_the_refusal_says_what_to_list_d105() -> None:
    found = [ip_address("8.8.8.8"), ip_address("fd12::1")]
    with pytest.raises(InvalidRequest, match=r'leads to fd12::1.*add "example\.org:81" to'):
        check_callback_addresses("example.org", 81, found, ["example.org"])
    with pytest.raises(InvalidRequest, match=r'is no public address.*add "\[::1\]:81" to'):
        check_callback_host("::1", 81, [])


@pytest.mark.parametrize(
    "entry",
    [
        "",
        "*",
        "*.",
        "a.*.org",
        "https://example.org",
        "example.org/path",
        "example.org:",
        "example.org:0",
        "example.org:65536",
        "example.org:٨٠",
        "user@example.org",
        "::1",
        "[::1",
        "[1:2]",
        "bücher.example",
        "example..org",
        "a b",
    ],
)
def test_an_entry_that_is_no_host_is_refused_at_start(entry: str) -> None:
    for kind in (ArtifactSettings, CallbackSettings):
        with pytest.raises(SettingInvalid):
            parse(kind, {"allowed_hosts": [entry]})
