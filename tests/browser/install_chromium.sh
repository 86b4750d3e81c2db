#!/bin/sh
# The report is tested in a real browser. Root on Debian or Ubuntu gets one; elsewhere those tests say what is missing.
command -v chromium >/dev/null && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core >/dev/null && exit 0
    # Ubuntu's package is a snap, which cannot see the tests' files; Playwright has a build of its own.
    .venv/bin/playwright install --with-deps chromium && exit 0
fi
echo "no chromium on PATH: the browser tests will be skipped (apt-get install chromium)"
