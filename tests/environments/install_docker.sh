#!/usr/bin/env bash
# Installs what the tests need to run a real Docker engine: dockerd and a static busybox. Does nothing where both
# are there. Debian and Ubuntu, as root or with sudo. Says what is missing where it cannot help, and fails.
set -euo pipefail

static_busybox() {
    local place
    for place in /usr/bin/busybox /bin/busybox; do
        if [ -f "$place" ] && ! head -c 4096 "$place" | grep -qa '/ld-'; then return 0; fi
    done
    return 1
}

missing=()
# A daemon elsewhere will do; the program is needed only to start one here.
if [ -z "${DOCKER_HOST:-}" ] && ! command -v dockerd >/dev/null && [ ! -S /var/run/docker.sock ]; then
    missing+=(docker.io cgroupfs-mount)
fi
static_busybox || missing+=(busybox-static)
[ "${#missing[@]}" -gt 0 ] || exit 0

give_up() {
    echo "install_docker.sh: $1; the tests of Docker environments need: ${missing[*]}" >&2
    exit 1
}

root=()
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null && sudo -n true 2>/dev/null || give_up "neither root nor sudo without a password"
    root=(sudo -n)
fi
command -v apt-get >/dev/null || give_up "there is no apt-get here"

export DEBIAN_FRONTEND=noninteractive
install() { "${root[@]}" apt-get install --yes --no-install-recommends -qq "${missing[@]}" >/dev/null; }
# Package lists may be old or absent on a fresh machine; where they are current, fetching them is a waste.
install 2>/dev/null || { "${root[@]}" apt-get update -qq && install; } || give_up "apt-get failed"

# Where no init system has run, as in a container, nobody has mounted these yet.
if ! mountpoint -q /sys/fs/cgroup && command -v cgroupfs-mount >/dev/null; then "${root[@]}" cgroupfs-mount; fi
