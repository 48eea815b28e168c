#!/usr/bin/env bash
# Installs fernd as systemd services on Debian, Ubuntu or Raspberry Pi OS, amd64 or arm64; run again, it upgrades.
#
#   install.sh --dispatcher URL[,URL] --token TOKEN   this machine becomes a node and takes work
#   install.sh --serve                                this machine gets a dispatcher
#   install.sh                                        an upgrade, or only the program
#   install.sh --uninstall [--purge]                  nothing is left; with --purge no settings and data either
#
#   --from PATH          a directory of wheels, as `make wheels` makes it, for a machine without a network; or
#                        fernd's wheel, and what does not lie beside it comes from the Python package index.
#                        By default: the directory wheels beside this script, or dist/wheels of a checkout.
#   --description TEXT   what people see beside the node's id
#
# It asks nothing. Each version lives in a directory of its own below /opt/fernd/versions, with a Python environment
# that nothing else uses; /opt/fernd/current says which one runs. An upgrade lets running tasks finish, swaps, starts,
# and goes back if the new version does not become ready, or if it is broken off.
set -euo pipefail
umask 022 # the services are not root, and are to read what root installs

root=/opt/fernd
state=/var/lib/fernd
settings=/etc/fernd
units=(fernd-dispatcher.service fernd-agent.service)
unit_dir=/etc/systemd/system
command=/usr/local/bin/fernd
READY_SECONDS=${FERND_INSTALL_READY_SECONDS:-120}
unset FERND_INSTALL_READY_SECONDS # or fernd would take it for a setting
unset PYTHONHOME PYTHONPATH       # nor is root's Python to be another than the services'
# The system's own: another, in root's home or in /usr/local, may be hidden from the services.
python=/usr/bin/python3
# Services that an upgrade has stopped and not started again; a reboot starts them by itself.
stopped=/run/fernd-install.stopped

dispatcher='' token='' from='' description='' serve='' uninstall='' purge='' packaged=''

say() { echo "fernd: $*" >&2; }
fail() { say "$*" && exit 1; }

# Runs a command quietly; shows what it printed only if it failed.
quietly() {
    local output
    output=$("$@" 2>&1 </dev/null) || { echo "$output" >&2 && return 1; }
}

usage() {
    sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
    exit
}

read_arguments() {
    while (($#)); do
        case $1 in
        --dispatcher | --token | --from | --description)
            (($# > 1)) || fail "$1: a value is missing"
            printf -v "${1#--}" '%s' "$2"
            shift
            ;;
        --serve) serve=yes ;;
        --uninstall) uninstall=yes ;;
        --purge) purge=yes ;;
        --packaged) packaged=yes ;; # by the Debian package, which brings units, settings and command itself
        -h | --help) usage ;;
        *) fail "$1: no such option; install.sh --help lists them" ;;
        esac
        shift
    done
    [[ -z $dispatcher || -n $token ]] || fail "--dispatcher wants --token: 'fernd node join-token' makes one"
    [[ -z $token || -n $dispatcher ]] || fail "--token wants --dispatcher: the address of the dispatcher that made it"
    [[ -z $purge || -n $uninstall ]] || fail "--purge goes with --uninstall"
}

# What the machine must be, and what it must have ------------------------------------------------------------------

check_machine() {
    [[ $(id -u) == 0 ]] || fail "only root can install services: run this with sudo"
    command -v apt-get >/dev/null || fail "this is neither Debian, nor Ubuntu, nor Raspberry Pi OS; docs/install.md says how else"
    case $(dpkg --print-architecture) in
    amd64 | arm64) ;;
    *) fail "fernd has packages for amd64 and arm64, and this system is $(dpkg --print-architecture)" ;;
    esac
    [[ -d /run/systemd/system || -n $packaged ]] || fail "systemd does not run here; in a container use the image, see docs/install.md"
    if [[ -z $packaged && $(dpkg-query --show --showformat='${db:Status-Status}' fernd 2>/dev/null) == installed ]]; then
        fail "fernd is a Debian package here: dpkg installs, upgrades and removes it"
    fi
    exec 9</var/lib
    flock --nonblock 9 || fail "another installer is at work here; run this again when it has ended"
}

reload_units() {
    [[ ! -d /run/systemd/system ]] || systemctl daemon-reload
}

# Installs packages of the system, if they are missing.
ensure_packages() {
    local missing=()
    local name
    for name in "$@"; do
        dpkg-query --show --showformat='${Status}' "$name" 2>/dev/null | grep -q 'ok installed' || missing+=("$name")
    done
    ((${#missing[@]})) || return 0
    say "installing ${missing[*]} …"
    export DEBIAN_FRONTEND=noninteractive
    # A machine that has just booted may be busy with upgrades of its own.
    local apt=(apt-get --quiet --option DPkg::Lock::Timeout=300)
    quietly "${apt[@]}" --option APT::Update::Error-Mode=any update || say "apt-get update failed; trying with the package lists at hand"
    quietly "${apt[@]}" --yes install --no-install-recommends "${missing[@]}" ||
        fail "${missing[*]} could not be installed: see the lines above, mend them, and run this again"
}

ensure_python() {
    # python3-minimal, which some systems have, lacks most of the library.
    "$python" -I -c 'import http.client, venv' 2>/dev/null || ensure_packages python3
    "$python" -I -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "fernd needs Python 3.11, and this system has $("$python" --version): Debian 12, Ubuntu 24.04 or newer have it"
}

engine_answers() {
    "$python" -I - <<-'EOF'
		import http.client, socket, sys
		line = socket.socket(socket.AF_UNIX)
		line.settimeout(5)
		try:
		    line.connect("/var/run/docker.sock")
		    line.sendall(b"GET /_ping HTTP/1.0\r\nHost: engine\r\n\r\n")
		    sys.exit(b" 200 " not in line.recv(64))
		except OSError:
		    sys.exit(1)
	EOF
}

ensure_engine() {
    if engine_answers; then return; fi
    if ! command -v dockerd >/dev/null; then
        # iptables keeps functions with internet away from private addresses; tini is what the engine's --init runs.
        ensure_packages docker.io tini iptables
    fi
    quietly systemctl enable --now docker || fail "the Docker Engine does not start: see 'journalctl --unit docker'"
    engine_answers || fail "the Docker Engine does not answer at /var/run/docker.sock"
}

# An engine that is no package of Debian's may lack the group by which the service may use its socket.
ensure_group() {
    getent group docker >/dev/null ||
        fail "the engine's socket has no group docker: 'groupadd --system docker', restart the engine, and run this again"
}

# One version of the program ---------------------------------------------------------------------------------------

find_wheels() {
    local here candidate
    here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
    if [[ -n $from ]]; then
        [[ -e $from ]] || fail "--from $from: no such file or directory"
        realpath "$from"
        return
    fi
    for candidate in "$here/wheels" "$here/../dist/wheels"; do
        if compgen -G "$candidate/fernd-*.whl" >/dev/null; then
            realpath "$candidate"
            return
        fi
    done
    fail "there are no wheels beside this script: 'make wheels' in a checkout makes them, --from says where they are"
}

# Says from what a version is made: another Python, or another wheel, makes another version.
fingerprint() {
    "$python" --version
    find "$1" -name '*.whl' -print0 | sort --zero-terminated | xargs --null cat | sha256sum
}

# Makes the environment of a version in the directory $1 from the wheels at $2.
build() {
    local target=$1 wheels=$2 pip fernd extras='' sources=()
    if [[ -d $wheels ]]; then
        sources=(--no-index --find-links "$wheels")
        fernd=$(find "$wheels" -maxdepth 1 -name 'fernd-*.whl' | sort --version-sort | tail -n 1)
    else
        sources=(--find-links "$(dirname "$wheels")")
        fernd=$wheels
    fi
    [[ -n $fernd ]] || fail "$wheels holds no wheel of fernd"
    # For a dispatcher that keeps its tasks in PostgreSQL.
    if compgen -G "$(dirname "$fernd")/asyncpg-*.whl" >/dev/null; then extras='[postgres]'; fi
    pip=$(compgen -G "$(dirname "$fernd")/pip-*.whl" | tail -n 1 || true)
    # -I: whatever lies in the directory that this was called from is no module of root's.
    "$python" -I -m venv --without-pip "$target"
    if [[ -n $pip ]]; then
        # A wheel can be run where it lies, so the system needs no pip, and the environment gets none.
        pip=("$python" "$pip/pip" --python "$target/bin/python")
    else
        ensure_packages python3-venv
        quietly "$python" -I -m venv "$target" || fail "no environment could be made: see the lines above"
        pip=("$target/bin/python" -I -m pip)
    fi
    pip+=(--quiet --disable-pip-version-check --no-cache-dir install)
    # Where all of it lies beside the wheel nobody is asked for it.
    quietly "${pip[@]}" --no-index "${sources[@]}" "$fernd$extras" 2>/dev/null ||
        quietly "${pip[@]}" "${sources[@]}" "$fernd$extras" ||
        fail "fernd could not be installed from $wheels: see the lines above; they must be wheels for" \
            "$(dpkg --print-architecture) and $("$python" --version)"
    "$target/bin/fernd" --version >/dev/null
    fingerprint "$wheels" >"$target/made-from"
}

running_version() { readlink --canonicalize-existing "$root/current" 2>/dev/null || true; }

# Puts the file $1 in the place $2, whole or not at all: an empty unit, as a full disk leaves one, is a masked one.
place() {
    if cmp --quiet "$1" "$2"; then return; fi
    install -D -m 644 "$1" "$2.new" || { rm -f "$2.new" && return 1; }
    mv "$2.new" "$2"
}

# Makes the version in the directory $1 the one that runs from the next start on.
switch_to() {
    local version=$1 unit
    ln --symbolic --force --no-target-directory "$version" "$root/current.new"
    mv --no-target-directory "$root/current.new" "$root/current"
    if [[ -z $packaged ]]; then
        for unit in "${units[@]}"; do
            place "$version/share/fernd/systemd/$unit" "$unit_dir/$unit"
        done
        place "$version/share/fernd/systemd/fernd.sysusers" /etc/sysusers.d/fernd.conf
        place "$version/share/fernd/systemd/fernd.tmpfiles" /etc/tmpfiles.d/fernd.conf
        mkdir -p "$(dirname "$command")"
        ln --symbolic --force --no-target-directory "$root/current/bin/fernd" "$command"
    fi
    # By name: what is wrong with the files of others is nothing to end over.
    quietly systemd-sysusers fernd.conf
    quietly systemd-tmpfiles --create fernd.conf
    reload_units
}

write_settings() {
    [[ -z $packaged && ! -e $settings/agent.toml ]] || return 0
    cat >"$settings/agent.toml" <<-EOF
		# Settings of the agent; docs/operating.md lists them.
		[node]
		data_dir = "$state"
	EOF
}

# Starting and stopping --------------------------------------------------------------------------------------------

# Runs a command so that a signal ends the wait for it; with one in the foreground the signal would have to wait.
attend() {
    "$@" 9>&- &
    wait $!
}

# Starts a service and waits until it says that it is ready.
start() {
    local unit=$1
    systemctl reset-failed "$unit" 2>/dev/null || true
    if attend timeout "$READY_SECONDS" systemctl start "$unit" && [[ $(systemctl is-active "$unit") == active ]]; then
        return 0
    fi
    say "$unit did not become ready within $READY_SECONDS s: $(systemctl show --property=StatusText --value "$unit")"
    journalctl --unit "$unit" --lines 5 --output cat --no-pager >&2 || true
    return 1
}

# The services in one of the states, in the order in which they are started.
units_that_are() {
    local unit
    for unit in "${units[@]}"; do
        if [[ $(systemctl is-active "$unit" 2>/dev/null) =~ ^($1)$ ]]; then echo "$unit"; fi
    done
}

stop_all() {
    local unit
    for unit in fernd-agent.service fernd-dispatcher.service; do # the agent first: it has something to deliver
        attend systemctl stop "$unit" 2>/dev/null || true
    done
}

# What it is asked for ---------------------------------------------------------------------------------------------

version_of() { "$1/bin/fernd" --version 2>/dev/null || echo "a version that cannot run"; }

# Makes the version in $old the one that runs, and removes that in $new: an upgrade comes to its end or has not been.
go_back() {
    trap - EXIT
    # As far as that goes: on a full disk, say, the version before is still better started than not.
    if [[ -n $old ]]; then
        switch_to "$old" || true
    elif [[ $(running_version) == "$new" ]]; then
        rm -f "$root/current"
    fi
    rm -rf "$new"
}

# The end of an upgrade that was broken off, by whatever: what it stopped is started again.
broken_off() {
    local unit start=start
    if [[ $(running_version) == "$new" ]]; then start=restart; fi # what is up by now is that one
    go_back
    [[ -e $stopped ]] || return 0
    say "broken off: $(version_of "$old") is started again"
    while read -r unit; do systemctl "$start" --no-block "$unit"; done <"$stopped"
    rm -f "$stopped"
}

# Removes all versions but one: those before it, and what installers that were killed left.
remove_others() {
    find "$root/versions" -mindepth 1 -maxdepth 1 ! -path "$1" -exec rm -rf {} +
}

install_version() {
    local wheels=$1 unit active=() trying=() running=()
    old=$(running_version)
    # An earlier upgrade may have been killed between stop and start.
    if [[ -e $stopped ]]; then mapfile -t active <"$stopped"; fi
    if [[ -n $old ]] && fingerprint "$wheels" | cmp --quiet - "$old/made-from"; then
        say "$(version_of "$old") is installed already, made from the same wheels"
        switch_to "$old"
        write_settings
        for unit in "${active[@]}"; do start "$unit" || fail "$unit does not start"; done
        rm -f "$stopped"
        remove_others "$old"
        return
    fi
    mkdir -p "$root/versions"
    new=$(mktemp -d "$root/versions/XXXXXXXX")
    trap broken_off EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
    chmod 755 "$new"
    build "$new" "$wheels"
    say "$(version_of "$new") is installed${old:+, in place of $(version_of "$old")}"
    for unit in $(units_that_are 'active|reloading'); do
        [[ " ${active[*]} " == *" $unit "* ]] || active+=("$unit")
    done
    # What was not ready before, for want of a dispatcher or an engine, proves nothing of the new version.
    mapfile -t trying < <(units_that_are activating)
    running=("${active[@]}" "${trying[@]}")
    if ((${#running[@]})); then
        say "stopping ${running[*]}; running tasks may finish (systemctl kill fernd-agent: they are given back) …"
        printf '%s\n' "${running[@]}" >"$stopped"
    fi
    stop_all # one that somebody stops already may still run, out of the version before
    switch_to "$new"
    write_settings
    for unit in "${active[@]}"; do
        start "$unit" || start_old_version "${active[@]}"
    done
    for unit in "${trying[@]}"; do systemctl start --no-block "$unit"; done
    trap - EXIT HUP INT TERM
    rm -f "$stopped"
    remove_others "$new"
}

# Goes back from a version that does not become ready, and ends.
start_old_version() {
    local unit runs=yes
    say "going back to $(version_of "$old")"
    stop_all
    go_back
    for unit in "$@"; do start "$unit" || runs=''; done
    rm -f "$stopped"
    [[ -n $runs ]] || fail "the upgrade failed; the version before is in place again, and not ready: see the lines above"
    fail "the upgrade failed, and the version before runs again"
}

join() {
    local described=() ran
    [[ -z $description ]] || described=(--description "$description")
    ran=$(units_that_are 'active|reloading|activating' | grep fernd-agent || true)
    [[ -z $ran ]] || say "stopping $ran, to join; running tasks may finish …"
    quietly systemctl stop fernd-agent
    # The token stands in the environment of a single command, not in its arguments, which everybody could read.
    FERND_NODE_JOIN_TOKEN=$token "$root/current/bin/fernd" agent join "$dispatcher" --data-dir "$state" "${described[@]}" >&2 || {
        [[ -z $ran ]] || systemctl start --no-block fernd-agent # the node that it was
        fail "this machine could not join: mend what it says above, and run this again"
    }
    quietly systemctl enable fernd-agent
    start fernd-agent || fail "the agent is not ready yet; it goes on trying"
    say "this machine is a node: $(systemctl show --property=StatusText --value fernd-agent)"
}

serve() {
    quietly systemctl enable fernd-dispatcher
    start fernd-dispatcher || fail "the dispatcher did not start"
    say "the dispatcher is ready: $(systemctl show --property=StatusText --value fernd-dispatcher)"
    say "its token is in $state/api-token; 'fernd node join-token' makes tokens for nodes"
}

# What this node has on the engine and an agent that was killed could not remove.
remove_containers() {
    [[ -f $state/node.json && -x $root/current/bin/fernd ]] || return 0
    # Without the settings: they may be wrong, and it needs none.
    "$root/current/bin/fernd" agent gc --all --config /dev/null --data-dir "$state" >/dev/null ||
        say "containers with the label fernd.node may be left on the engine"
}

# Removes the services' user, unless it is somebody's who was here before.
remove_user() {
    [[ $(getent passwd fernd | cut --delimiter : --fields 6,7) == "$state:/usr/sbin/nologin" ]] || return 0
    quietly userdel fernd
    if getent group fernd >/dev/null; then quietly groupdel fernd; fi
}

remove() {
    stop_all
    remove_containers
    local unit
    for unit in "${units[@]}"; do systemctl disable "$unit" 2>/dev/null || true; done
    rm -rf "$root" "$stopped"
    if [[ -z $packaged ]]; then
        for unit in "${units[@]}"; do rm -rf "${unit_dir:?}/$unit" "$unit_dir/$unit.d"; done
        rm -f "$command" /etc/sysusers.d/fernd.conf /etc/tmpfiles.d/fernd.conf
        rmdir --ignore-fail-on-non-empty /etc/sysusers.d /etc/tmpfiles.d 2>/dev/null || true
    fi
    reload_units
    systemctl reset-failed 'fernd-*' 2>/dev/null || true
    if [[ -n $packaged ]]; then
        return # the package's own scripts say the rest
    elif [[ -n $purge ]]; then
        rm -rf "$state" "$settings"
        remove_user
        say "removed, with settings and data"
    else
        say "removed; $state and $settings are kept, --uninstall --purge removes them too"
    fi
}

main() {
    read_arguments "$@"
    check_machine
    if [[ -n $uninstall ]]; then
        remove
        return
    fi
    local wheels
    wheels=$(find_wheels)
    ensure_python
    [[ $dispatcher != https:* || -e /etc/ssl/certs/ca-certificates.crt ]] || ensure_packages ca-certificates
    if [[ -n $dispatcher ]]; then # an upgrade starts no engine that somebody has stopped
        ensure_engine
        ensure_group
    fi
    install_version "$wheels"
    [[ -z $serve ]] || serve
    [[ -z $dispatcher ]] || join
}

main "$@"
