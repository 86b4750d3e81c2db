#!/bin/sh
# System packages for programs that are missing: install_packages.sh PROGRAM ... Root on Debian or Ubuntu gets them
# installed. Everyone else gets their names, for the package manager on PATH; what needs a program reports it again.
apt="" dnf="" zypper=""
while IFS="|" read -r program debian fedora suse; do
    case " $* " in *" $program "*) ;; *) continue ;; esac
    command -v "$program" >/dev/null && continue
    apt="$apt $debian" dnf="$dnf $fedora" zypper="$zypper $suse"
done <<END
g++|g++|gcc-c++|gcc-c++
ip|iproute2|iproute|iproute2
munged|munge|munge|munge
slurmd|slurmctld slurmd slurm-client libpmix-dev|slurm slurm-slurmctld slurm-slurmd pmix-devel|slurm slurm-node slurm-munge pmix-devel
chromium|chromium fonts-dejavu-core|chromium dejavu-sans-fonts|chromium dejavu-fonts
END
[ -z "$apt" ] && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    export DEBIAN_FRONTEND=noninteractive
    # shellcheck disable=SC2086 # the list is words
    apt-get update -qq && apt-get install -y -qq --no-install-recommends $apt >/dev/null && exit 0
fi
if command -v apt-get >/dev/null; then
    remedy="apt-get install$apt"
elif command -v dnf >/dev/null; then
    remedy="dnf install$dnf"
elif command -v zypper >/dev/null; then
    remedy="zypper install$zypper"
else
    remedy="apt-get install$apt, or dnf install$dnf, or zypper install$zypper"
fi
echo "missing system packages; ask root for: $remedy"
