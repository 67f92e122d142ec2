"""Symlinks, hard links and other ways around the names of things."""

import os

from trying import attempts


def main(secret: str) -> object:
    parent = f"/proc/{os.getppid()}/"
    return attempts(
        {
            "through a symlink": lambda: through(secret, "/tmp/link"),
            "through a symlink to a directory": lambda: below(secret),
            "a hard link": lambda: os.link(secret, "/tmp/hard"),
            "by /proc/self/root": lambda: read(f"/proc/self/root{secret}"),
            "by /proc/self/cwd": lambda: read("/proc/self/cwd/" + "../" * 40 + secret[1:]),
            "by /proc/thread-self": lambda: read(f"/proc/thread-self/root{secret}"),
            "from a descriptor": lambda: from_descriptor(secret),
            "by its parent": lambda: read(parent + "root" + secret),
            "by its parent's directory": lambda: read(parent + "cwd" + secret),
        }
    )


def read(path: str) -> bytes:
    return os.read(os.open(path, os.O_RDONLY), 100)


def through(secret: str, link: str) -> bytes:
    os.symlink(secret, link)
    return read(link)


def below(secret: str) -> bytes:
    os.symlink(os.path.dirname(secret), "/tmp/directory")
    return read(f"/tmp/directory/{os.path.basename(secret)}")


def from_descriptor(secret: str) -> bytes:
    descriptor = os.open("/", os.O_PATH)
    return os.read(os.open(secret[1:], os.O_RDONLY, dir_fd=descriptor), 100)
