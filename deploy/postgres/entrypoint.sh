#!/bin/sh
# The first process of the image fernd-postgres: makes a database cluster where there is none, and runs the server.
# It goes by the same variables as the image postgres: POSTGRES_USER, POSTGRES_PASSWORD, POSTGRES_DB.
set -eu

data=/var/lib/postgresql/data
bin=$(echo /usr/lib/postgresql/*/bin)
if [ "$(id -u)" = 0 ]; then
    install --directory --owner postgres --group postgres --mode 700 "$data"
    install --directory --owner postgres --group postgres /var/run/postgresql
    exec setpriv --reuid postgres --regid postgres --init-groups "$0" "$@"
fi
if [ ! -s "$data/PG_VERSION" ]; then
    password=$(mktemp)
    printf '%s\n' "${POSTGRES_PASSWORD:?is not set}" >"$password"
    "$bin/initdb" --pgdata "$data" --username "$POSTGRES_USER" --pwfile "$password" --encoding UTF8 --locale C.UTF-8 \
        --auth-host scram-sha-256 --auth-local trust >/dev/null
    rm "$password"
    echo 'host all all all scram-sha-256' >>"$data/pg_hba.conf"
    "$bin/pg_ctl" --pgdata "$data" --wait --options "-c listen_addresses=''" start >/dev/null
    "$bin/createdb" --username "$POSTGRES_USER" "${POSTGRES_DB:-$POSTGRES_USER}"
    "$bin/pg_ctl" --pgdata "$data" --wait stop >/dev/null
fi
exec "$bin/postgres" -D "$data" -c listen_addresses='*' "$@"
