#!/usr/bin/env bash
# Sees to it that what tests need of the system is there. What cannot be installed is said by the tests that need it.
set -euo pipefail

missing=()
compgen -G '/usr/lib/*/faketime/libfaketimeMT.so.1' >/dev/null || missing+=(libfaketime)
compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || command -v initdb >/dev/null || missing+=(postgresql)
command -v pgbouncer >/dev/null || [[ -x /usr/sbin/pgbouncer ]] || missing+=(pgbouncer)
command -v shellcheck >/dev/null || missing+=(shellcheck)
command -v mmdebstrap >/dev/null || missing+=(mmdebstrap)
command -v docker-registry >/dev/null || missing+=(docker-registry)
command -v htpasswd >/dev/null || missing+=(apache2-utils)
command -v chromium >/dev/null || missing+=(chromium)
command -v runsc >/dev/null || missing+=(runsc)

cd "$(dirname "$0")/.."
if [[ ! -e .cache/axe/axe_playwright_python/axe.min.js || deploy/axe.txt -nt .cache/axe ]]; then
  rm -rf .cache/axe
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes --target .cache/axe \
    --requirement deploy/axe.txt || echo "axe-core cannot be had: the tests of the dashboard fail." >&2
fi

# Unpacked, not installed: the package would start a Prometheus.
if [[ ! -x .cache/promtool/usr/bin/promtool ]] && ! command -v promtool >/dev/null; then
  if command -v apt-get >/dev/null; then
    rm -rf .cache/promtool
    mkdir -p .cache/promtool
    (
      cd .cache/promtool
      apt-get download prometheus || { apt-get update && apt-get download prometheus; }
      dpkg-deb --extract prometheus_*.deb .
      rm -rf prometheus_*.deb usr/bin/prometheus usr/share var lib etc
    ) >/dev/null 2>&1 || true
  fi
  [[ -x .cache/promtool/usr/bin/promtool ]] || echo "promtool cannot be had: tests of the alerts are skipped." >&2
fi

if [[ ${#missing[@]} -eq 0 ]]; then
  exit 0
fi
if [[ $EUID -eq 0 ]] && command -v apt-get >/dev/null; then
  echo "Installing ${missing[*]} …"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update >/dev/null 2>&1 || true
  # One by one, so that one that is not to be had does not keep the others away.
  for package in "${missing[@]}"; do
    apt-get install --yes --no-install-recommends "$package" >/dev/null 2>&1 ||
      echo "$package cannot be installed: tests that need it are skipped, or fail." >&2
  done
else
  echo "Not installed: ${missing[*]}. Tests that need them are skipped, or fail." >&2
fi
