#!/bin/sh
# The report is tested in a real browser. Root on Debian or Ubuntu gets one; elsewhere its package is named.
remedy=$(jobs/install_packages.sh chromium)
command -v chromium >/dev/null && exit 0
# Ubuntu's package is a snap, which cannot see the tests' files; Playwright has a build of its own.
[ "$(id -u)" = 0 ] && command -v apt-get >/dev/null && .venv/bin/playwright install --with-deps chromium && exit 0
echo "no chromium on PATH: the browser tests will be skipped; $remedy"
