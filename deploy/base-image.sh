#!/usr/bin/env bash
# Makes sure that the image fernd-base:latest exists, and prints its name.
#
# It holds Python 3 as /usr/bin/python3 and busybox as /bin/busybox, with a shell at /bin/sh, and little
# else. The examples and the tests run on it. Where the engine reaches an image registry it is made from
# python:3.11-slim; otherwise from Debian's packages with mmdebstrap. FERND_BASE_REGISTRY names a
# registry other than the engine's own, such as registry.example.org/library.
#
# It speaks to the engine by its socket, so that it needs no docker command.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=$(command -v python3 || command -v python3.11)
image=fernd-base:latest
prefix=${FERND_BASE_REGISTRY:+$FERND_BASE_REGISTRY/}

engine() { "$python" "$here/engine.py" "$@"; }

present() { engine GET "/images/$image/json" >/dev/null 2>&1; }

fail() {
    echo "base-image: $1" >&2
    exit 1
}

# The engine asks the registry for us: a short question first, since no registry at all is a common case.
registry_answers() { timeout 8 "$python" "$here/engine.py" --timeout 8 GET "/distribution/${prefix}python:3.11-slim/json" >/dev/null 2>&1; }

from_registry() {
    cat >"$work/Dockerfile" <<-EOF
		FROM ${prefix}busybox:stable-musl AS busybox
		FROM ${prefix}python:3.11-slim
		COPY --from=busybox /bin/busybox /bin/busybox
		RUN ln -sf /usr/local/bin/python3 /usr/bin/python3
	EOF
    tar --create --file "$work/context.tar" --directory "$work" Dockerfile
    timeout 300 "$python" "$here/engine.py" --timeout 120 POST "/build?t=$image&rm=1&forcerm=1" --body "$work/context.tar" >/dev/null
}

from_packages() {
    if ! command -v mmdebstrap >/dev/null; then
        command -v apt-get >/dev/null ||
            fail "no image registry answers, and without Debian's mmdebstrap no base can be built here: tag a Python image with busybox as $image."
        [[ $(id -u) == 0 ]] ||
            fail "no image registry answers, and mmdebstrap, which builds a base instead, is missing: run 'sudo apt-get install mmdebstrap'."
        export DEBIAN_FRONTEND=noninteractive
        if ! { apt-get --quiet update && apt-get --quiet --yes install --no-install-recommends mmdebstrap; } >"$work/log" 2>&1 </dev/null; then
            cat "$work/log" >&2
            fail "mmdebstrap could not be installed: see the lines above, mend them, and run this again."
        fi
    fi
    local suite
    suite=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
    # Only extracted, not configured: 5 seconds instead of 20, and none of the essential packages. The
    # container's root is read-only, so bytecode must be made now: without it each start takes 0.2 s longer.
    # shellcheck disable=SC2016 # "$1" is for mmdebstrap: the root that it builds
    mmdebstrap --quiet --variant=extract \
        --include=python3-minimal,libpython3-stdlib,busybox-static \
        --dpkgopt='path-exclude=/usr/share/*' \
        --extract-hook='ln -sf busybox "$1/bin/sh"' \
        --extract-hook='chroot "$1" /usr/bin/python3 -m compileall -q -j0 /usr/lib' \
        "$suite" "$work/base.tar" </dev/null
    engine --timeout 120 POST "/images/create?fromSrc=-&repo=${image%:*}&tag=${image#*:}" --body "$work/base.tar" >/dev/null
}

if ! present; then
    engine GET /_ping >/dev/null || fail "the Docker Engine does not answer: run deploy/ensure-engine.sh first."
    mkdir -p "$here/../.cache"
    exec 9>"$here/../.cache/base-image.lock"
    flock 9
    if ! present; then # another run may have been faster
        work=$(mktemp -d)
        trap 'rm -rf "$work"' EXIT
        echo "Making the image $image …" >&2
        if ! { registry_answers && from_registry; }; then
            from_packages
        fi
    fi
fi
echo "$image"
