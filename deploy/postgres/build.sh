#!/usr/bin/env bash
# Makes the image fernd-postgres of Debian's packages, for deploy/compose.yaml where no image registry can be reached.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
image=fernd-postgres:latest
[[ -z $(docker images --quiet "$image") ]] || exit 0
command -v mmdebstrap >/dev/null || {
    echo "postgres-image: mmdebstrap is missing: 'apt-get install mmdebstrap' brings it." >&2
    exit 1
}
suite=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
# shellcheck disable=SC2016 # "$1" is for mmdebstrap: the root that it builds
mmdebstrap --quiet --variant=minbase --include=postgresql --dpkgopt='path-exclude=/usr/share/doc/*' \
    --essential-hook='mkdir -p "$1/etc/postgresql-common"; echo "create_main_cluster = false" >"$1/etc/postgresql-common/createcluster.conf"' \
    --customize-hook="upload $here/entrypoint.sh /entrypoint.sh" --customize-hook='chmod 755 "$1/entrypoint.sh"' \
    "$suite" - </dev/null |
    docker import --change 'ENTRYPOINT ["/entrypoint.sh"]' --change 'VOLUME /var/lib/postgresql/data' \
        --change 'ENV PATH=/usr/sbin:/usr/bin:/sbin:/bin' - "$image" >/dev/null
