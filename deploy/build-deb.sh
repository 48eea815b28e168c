#!/usr/bin/env bash
# Builds dist/fernd_VERSION_ARCH.deb and prints its name.
#
#   build-deb.sh [ARCH [DIRECTORY [PYTHON...]]]
#
# ARCH is amd64 or arm64, this machine's by default; DIRECTORY is where to put the package, in place of dist; PYTHON is a
# version such as 3.11, for a package that fits that one alone.
#
# The package holds wheels for the Python versions of the systems that it is for, and its postinst makes an environment
# of its own from them, by deploy/install.sh and without a network. A ready-made environment would fit one version of
# Python only, and there would be a package for each. It needs neither pip nor venv of the system.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
arch=${1:-$(dpkg --print-architecture)}
directory=${2:-dist}
pythons=()
for python in "${@:3}"; do pythons+=(--python "$python"); done
version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
package=$directory/fernd_${version}_$arch.deb

mkdir -p "$directory"
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
chmod 755 "$root"
.venv/bin/python deploy/wheelhouse.py "$root/usr/lib/fernd/wheels" --arch "$arch" "${pythons[@]}"
install -m 755 deploy/install.sh "$root/usr/lib/fernd/install.sh"
install -D -m 644 systemd/*.service --target-directory "$root/usr/lib/systemd/system"
install -D -m 644 systemd/fernd.sysusers "$root/usr/lib/sysusers.d/fernd.conf"
install -D -m 644 systemd/fernd.tmpfiles "$root/usr/lib/tmpfiles.d/fernd.conf"
install -D -m 644 deploy/deb/agent.toml "$root/etc/fernd/agent.toml"
install -D -m 644 LICENSE "$root/usr/share/doc/fernd/copyright"
mkdir -p "$root/usr/bin"
ln --symbolic /opt/fernd/current/bin/fernd "$root/usr/bin/fernd"

install -D -m 644 deploy/deb/conffiles deploy/deb/triggers --target-directory "$root/DEBIAN"
install -m 755 deploy/deb/{preinst,postinst,prerm,postrm} "$root/DEBIAN"
size=$(du --summarize --apparent-size --block-size=1024 "$root" | cut --fields 1)
sed "s/@VERSION@/$version/; s/@ARCH@/$arch/; s/@SIZE@/$size/" deploy/deb/control >"$root/DEBIAN/control"
dpkg-deb --root-owner-group -Zxz --build "$root" "$package" >/dev/null
echo "$package"
