#!/bin/sh
# Makes the virtual environment, or brings it up to date with the lock file.
# usage: setup.sh PYTHON VENV
set -eu
python=$1
venv=$2

sh scripts/preflight.sh "$python"
# A half-made environment, or one whose Python has gone, is made again from scratch.
if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    echo "setting up $venv ..."
    "$python" -m venv --clear "$venv"
fi
echo "installing the locked dependencies into $venv ..."
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r requirements.lock
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps -e .
touch "$venv/.ready"
