#!/usr/bin/env bash
# Makes sure that a Docker Engine answers, and says nothing when it does.
#
# Where none runs, and this is Debian or Ubuntu and we are root, it installs Debian's docker.io and
# starts it: by systemd where that is the init, otherwise as a process of its own.
# Everywhere else it says in one sentence what to do, and exits with 1.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=$(command -v python3 || command -v python3.11)
log=/var/log/dockerd.log
PATH=$PATH:/usr/sbin:/sbin

answers() { "$python" "$here/engine.py" GET /_ping >/dev/null 2>&1; }

fail() {
    echo "ensure-engine: $1" >&2
    exit 1
}

# Runs a command quietly; shows what it printed only if it failed.
quietly() {
    local output
    output=$("$@" 2>&1 </dev/null) || { echo "$output" >&2 && return 1; }
}

install() {
    command -v apt-get >/dev/null ||
        fail "no Docker Engine answers, and this is neither Debian nor Ubuntu: install Docker by your system's own means and start it."
    echo "Installing the Docker Engine (docker.io) …" >&2
    export DEBIAN_FRONTEND=noninteractive
    quietly apt-get --quiet update || echo "ensure-engine: apt-get update failed; trying with the package lists at hand." >&2
    # tini is what the engine's --init runs, and not every release's docker.io depends on it.
    quietly apt-get --quiet --yes install --no-install-recommends docker.io tini ||
        fail "docker.io could not be installed: see the lines above, mend them, and run this again."
}

# An engine that was killed leaves the numbers of its processes behind. Others may have them by now, or nobody may
# have cleared away the dead: then it takes itself, or its containerd, to be running, and does not start.
forget_the_dead() {
    local file pid
    for file in /var/run/docker.pid /var/run/docker/containerd/containerd.pid; do
        [[ -f $file ]] || continue
        pid=$(<"$file")
        # The command of a process that is dead and not cleared away is empty.
        if [[ ! $pid =~ ^[0-9]+$ ]] || ! tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | grep -q -E '(dockerd|containerd)'; then
            rm -f "$file"
        fi
    done
}

start() {
    if [[ -d /run/systemd/system ]]; then
        quietly systemctl start docker || fail "the Docker Engine did not start: see 'journalctl --unit docker'."
    elif ! answers; then # the package may have started it by itself
        echo "Starting the Docker Engine; its log is $log" >&2
        forget_the_dead
        # Without the lock (9), which would otherwise be held for as long as the engine runs.
        setsid dockerd </dev/null >>"$log" 2>&1 9>&- &
    fi
}

answers && exit 0

if [[ -n ${DOCKER_HOST:-} ]]; then
    fail "no Docker Engine answers at DOCKER_HOST=$DOCKER_HOST: start it there, or unset DOCKER_HOST."
elif [[ $(uname) != Linux ]]; then
    fail "no Docker Engine answers: install Docker Desktop and start it."
elif [[ $(id -u) != 0 && -S /var/run/docker.sock ]]; then
    fail "$(id -un) may not use the Docker Engine, or it is stopped: run 'sudo usermod -aG docker $(id -un)', log in again, and see that it runs."
elif [[ $(id -u) != 0 ]]; then
    fail "no Docker Engine answers, and only root can install one: run 'sudo $here/ensure-engine.sh'."
fi

mkdir -p /run/lock
exec 9>/run/lock/fernd-ensure-engine.lock
flock 9
answers && exit 0 # another run was faster

command -v dockerd >/dev/null || install
start
deadline=$((SECONDS + 60))
until answers; do
    if ((SECONDS >= deadline)); then
        [[ -f $log ]] && tail -n 5 "$log" >&2
        fail "the Docker Engine does not answer 60 seconds after its start: see $log or 'journalctl --unit docker'."
    fi
    sleep 0.2
done
