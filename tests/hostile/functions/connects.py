"""Opens sockets of all kinds, and speaks to whoever listens on this machine."""

import os
import socket

from trying import attempts

FAMILIES = {
    "raw IPv4": (socket.AF_INET, socket.SOCK_RAW, 1),
    "raw IPv6": (socket.AF_INET6, socket.SOCK_RAW, 58),
    "packets": (17, socket.SOCK_RAW, 3),
    "kernel keys": (15, socket.SOCK_RAW, 2),
    "crypto": (38, socket.SOCK_SEQPACKET, 0),
    "virtual machines": (40, socket.SOCK_STREAM, 0),
    "express data path": (44, socket.SOCK_RAW, 0),
    "bluetooth": (31, socket.SOCK_RAW, 1),
    "controller area network": (29, socket.SOCK_RAW, 1),
    "clusters": (30, socket.SOCK_SEQPACKET, 0),
    "netlink audit": (16, socket.SOCK_RAW, 9),
    "netlink firewall": (16, socket.SOCK_RAW, 12),
    "netlink events": (16, socket.SOCK_RAW, 15),
    "netlink crypto": (16, socket.SOCK_RAW, 21),
    "netlink generic": (16, socket.SOCK_RAW, 16),
}


def main() -> object:
    return attempts(
        {name: lambda given=given: socket.socket(*given) for name, given in FAMILIES.items()}
    )


def to(addresses: dict) -> object:
    """Unix sockets of others: a path, or `@` and an abstract name."""

    def connect(address: str) -> bytes:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(5)
            sock.connect(address.replace("@", "\0", 1))
            return sock.recv(100)

    return attempts({name: lambda path=path: connect(path) for name, path in addresses.items()})


def network(port: int) -> object:
    """What a function without a network has to do without."""

    def stream(host: str, family: int) -> str:
        with socket.socket(family) as sock:
            sock.settimeout(5)
            sock.connect((host, port))
            return "connected"

    def listen() -> str:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            sock.listen()
            return "listens"

    def datagram() -> str:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            return str(sock.sendto(b"x", ("127.0.0.1", 9)))

    return attempts(
        {
            "connect": lambda: stream("127.0.0.1", socket.AF_INET),
            "connect over IPv6": lambda: stream("::1", socket.AF_INET6),
            "listen": listen,
            "send a datagram": datagram,
            "look a name up": lambda: socket.create_connection(("localhost", port), 5),
        }
    )


def configures() -> object:
    """Changes the network of the machine through the socket that reading it needs."""

    def down() -> None:
        import struct

        sock = socket.socket(16, socket.SOCK_RAW, 0)
        sock.bind((0, 0))
        header = struct.pack("=IHHII", 32, 16, 5, 1, os.getpid())  # RTM_NEWLINK, of no index
        sock.send(header + struct.pack("=BxHiII", 0, 0, 0, 0, 0))
        code = -struct.unpack_from("=i", sock.recv(4096), 16)[0]
        if code:
            raise OSError(code, os.strerror(code))

    return attempts({"change a link": down})
