#!/bin/sh
# Says in one line what this machine lacks, with the command that installs it; exit status 1.
# usage: preflight.sh PYTHON
python=$1

lacks() {
    printf 'atlatl: %s\n' "$1" >&2
    exit 1
}

command -v "$python" >/dev/null 2>&1 ||
    lacks "there is no $python here; install it with: sudo apt-get install python3 python3-venv"

version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
    lacks "Python 3.11 or newer is needed, $python is ${version:-broken}; install one with: sudo apt-get install python3 python3-venv, or name one: make PYTHON=python3.12"

"$python" -c 'import ensurepip, venv' 2>/dev/null ||
    lacks "$python cannot make virtual environments; install that with: sudo apt-get install python3-venv"
