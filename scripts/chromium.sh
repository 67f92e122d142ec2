#!/bin/sh
# Installs Chromium and its driver for tests/e2e/test_dashboard.py, where apt-get can: for machines
# that only run tests. Never fails: without them those tests are left out, and say so.
# usage: chromium.sh
command -v chromium >/dev/null 2>&1 && command -v chromedriver >/dev/null 2>&1 && exit 0
command -v apt-get >/dev/null 2>&1 && [ "$(id -u)" = 0 ] || exit 0
install() {
    DEBIAN_FRONTEND=noninteractive timeout 300 apt-get install -qq -y --no-install-recommends \
        chromium chromium-driver fonts-noto-core fonts-dejavu-core >/dev/null 2>&1
}
# A fresh machine has no lists yet.
install || { timeout 60 apt-get update -q >/dev/null 2>&1 && install; }
exit 0
