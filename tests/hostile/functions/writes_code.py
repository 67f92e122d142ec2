"""Changes its own code, for whoever is called after it."""

import os

from trying import attempts

import atlatl_worker

HERE = os.path.dirname(os.path.abspath(__file__))


def main() -> object:
    planted = f"{HERE}/planted.py"
    return attempts(
        {
            "append": lambda: os.open(__file__, os.O_WRONLY | os.O_APPEND),
            "cut": lambda: os.truncate(__file__, 0),
            "replace": lambda: os.rename(f"{HERE}/trying.py", __file__),
            "remove": lambda: os.unlink(__file__),
            "make writable": lambda: os.chmod(__file__, 0o777),
            "make all writable": lambda: os.chmod(HERE, 0o777),
            "plant": lambda: os.open(planted, os.O_CREAT | os.O_WRONLY),
            "plant a directory": lambda: os.mkdir(f"{HERE}/planted"),
            "plant byte code": lambda: os.mkdir(f"{HERE}/__pycache__"),
            "plant a link": lambda: os.symlink("/etc", f"{HERE}/link"),
            "link out": lambda: os.link(__file__, "/tmp/linked.py"),
            "change its times": lambda: os.utime(__file__, (0, 0)),
            "an attribute": lambda: os.setxattr(__file__, "user.planted", b"x"),
            "descend and rename": lambda: os.rename(HERE, f"{HERE}-moved"),
            "be imported by others": lambda: plant(os.path.dirname(os.__file__)),
            "be imported by instances": lambda: plant(os.path.dirname(atlatl_worker.__file__)),
        }
    )


def plant(directory: str) -> None:
    os.close(os.open(f"{directory}/planted_by_a_test.py", os.O_CREAT | os.O_WRONLY))
    os.unlink(f"{directory}/planted_by_a_test.py")
