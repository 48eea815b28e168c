#!/usr/bin/env bash
# Makes .venv: the dependencies of requirements.lock, checked by their hashes, and fernd itself, editable.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() {
    echo "setup: $1" >&2
    exit 1
}

# A version manager's python3.12 can be there and not run, so each is tried.
find_python() {
    local candidate
    for candidate in python3.11 python3 python3.12 python3.13 python3.14; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    fail "Python 3.11 or newer is missing: install it, on Debian with 'apt-get install python3'."
}

# Debian keeps what makes virtual environments in a package of its own.
install_venv() {
    local package log
    package=$("$1" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
    if [[ $(id -u) != 0 ]] || ! command -v apt-get >/dev/null; then
        fail "$1 cannot make virtual environments: install its venv module, on Debian with 'sudo apt-get install $package'."
    fi
    export DEBIAN_FRONTEND=noninteractive
    if ! log=$( (apt-get --quiet update && apt-get --quiet --yes install --no-install-recommends "$package") 2>&1 </dev/null); then
        echo "$log" >&2
        fail "$package could not be installed: see the lines above, mend them, and run this again."
    fi
}

python=$(find_python)
if ! .venv/bin/python -c '' 2>/dev/null; then
    "$python" -c 'import ensurepip, venv' 2>/dev/null || install_venv "$python"
    "$python" -m venv --clear .venv
fi
echo "Installing the locked dependencies into .venv …" >&2
pip=(.venv/bin/python -m pip -qq --disable-pip-version-check install)
"${pip[@]}" --require-hashes --requirement requirements.lock
"${pip[@]}" --no-deps --no-build-isolation --editable .
