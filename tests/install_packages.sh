#!/bin/sh
# What the set-up and the tests need besides Python and a browser: a compiler for Horovod, a Slurm to start under. Root on
# Debian or Ubuntu gets them; elsewhere the tests that need one are skipped and say so.
missing=""
need() { command -v "$1" >/dev/null || missing="$missing $2"; }
need g++ g++
need ip iproute2
need munged munge
need slurmd "slurmctld slurmd slurm-client libpmix-dev"
[ -z "$missing" ] && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    export DEBIAN_FRONTEND=noninteractive
    # shellcheck disable=SC2086 # the list is words
    apt-get update -qq && apt-get install -y -qq --no-install-recommends $missing >/dev/null && exit 0
fi
echo "not installed, so their tests will be skipped:$missing"
