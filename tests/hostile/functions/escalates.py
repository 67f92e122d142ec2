"""Becomes somebody else."""

import os
import shutil
import stat
import subprocess

from trying import attempts

PROGRAMS = (
    ["su", "-c", "id -u"], ["mount"], ["umount", "/"], ["passwd", "-S"],
    ["ping", "-c1", "127.0.0.1"], ["sudo", "-n", "id", "-u"], ["newgrp"], ["chsh"],
    ["pkexec", "id", "-u"],
)  # fmt: skip
"""Some of those that have the right to become root on most machines."""


def main() -> object:
    return attempts(
        {
            "uid 0": lambda: os.setuid(0),
            "uid of another": lambda: os.setresuid(1, 1, 1),
            "gid 0": lambda: os.setgid(0),
            "groups": lambda: os.setgroups([0]),
            "own program with the bit": own_program,
            "give a file away": give_away,
            "make a device": lambda: os.mknod("/tmp/disk", stat.S_IFBLK | 0o600, os.makedev(8, 0)),
            "read the disk": lambda: os.open("/dev/vda", os.O_RDONLY),
            "read all memory": lambda: os.open("/dev/mem", os.O_RDONLY),
            "message of the kernel": lambda: os.open("/dev/kmsg", os.O_RDONLY),
        }
    )


def whoever() -> dict:
    """What the programs say, and as whom they say it."""
    said = {}
    for command in PROGRAMS:
        if shutil.which(command[0]) is None:
            continue
        done = subprocess.run(
            command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=5
        )
        said[command[0]] = [done.returncode, done.stdout[:100]]
    return said


def own_program() -> str:
    """Its bit must not count even where it can be set."""
    shutil.copy(shutil.which("id") or "/usr/bin/id", "/tmp/id")
    os.chmod("/tmp/id", 0o4755)
    said = subprocess.run(["/tmp/id", "-u"], capture_output=True, text=True, timeout=5)
    if int(said.stdout) == os.getuid():
        raise PermissionError(1, "still the same")
    return said.stdout


def give_away() -> None:
    with open("/tmp/given", "w") as file:
        os.fchown(file.fileno(), 0, 0)


def who() -> dict:
    """Uids, gids, groups and rights of this process."""
    status = open("/proc/self/status").read()
    wanted = ("Uid", "Gid", "Groups", "NoNewPrivs", "Seccomp", "CapEff", "CapPrm", "CapInh")
    return {
        line.split(":")[0]: line.split(":")[1].split()
        for line in status.splitlines()
        if line.split(":")[0] in wanted
    }
