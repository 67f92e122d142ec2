#!/bin/sh
# Fetches promtool, Prometheus' own checker, for tests/e2e/test_promtool.py, where apt-get can.
# Only the tool is unpacked, into the environment: the package would start a server besides.
# Never fails: without it those tests are left out, and say so.
# usage: promtool.sh VENV
venv=$1

command -v promtool >/dev/null 2>&1 && exit 0
[ -x "$venv/bin/promtool" ] && exit 0
command -v apt-get >/dev/null 2>&1 && command -v dpkg-deb >/dev/null 2>&1 || exit 0

work=$(mktemp -d) || exit 0
trap 'rm -rf "$work"' EXIT INT TERM
# apt drops its rights before it downloads.
chmod 755 "$work" && cd "$work" || exit 0
fetch() {
    timeout 120 apt-get download -q prometheus >/dev/null 2>&1
}
if ! fetch && [ "$(id -u)" = 0 ]; then
    # A fresh machine has no lists yet.
    timeout 60 apt-get update -q >/dev/null 2>&1 && fetch
fi
cd - >/dev/null || exit 0
dpkg-deb --fsys-tarfile "$work"/prometheus_*.deb 2>/dev/null |
    tar -x -C "$work" ./usr/bin/promtool 2>/dev/null
if [ -x "$work/usr/bin/promtool" ]; then
    mv "$work/usr/bin/promtool" "$venv/bin/promtool"
fi
exit 0
