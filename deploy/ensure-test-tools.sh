#!/usr/bin/env bash
# Sees to it that what tests need of the system is there. What cannot be installed is skipped, and said by the tests.
set -euo pipefail

if compgen -G '/usr/lib/*/faketime/libfaketimeMT.so.1' >/dev/null; then
  exit 0
fi
if [[ $EUID -eq 0 ]] && command -v apt-get >/dev/null; then
  echo "Installing libfaketime …"
  export DEBIAN_FRONTEND=noninteractive
  { apt-get update && apt-get install --yes --no-install-recommends libfaketime; } >/dev/null 2>&1 ||
    echo "libfaketime cannot be installed: the test with a wall clock that jumps is skipped." >&2
else
  echo "libfaketime is not installed: the test with a wall clock that jumps is skipped." >&2
fi
