#!/bin/sh
# Runs in an image's build stages, from wheels alone.
#
# usage: install.sh dependencies [--system-site-packages]     /context/wheels into /opt/fedfleet
#        install.sh own                                       /context/own over it; what that adds, into /own
set -eu
home=/opt/fedfleet
pip() {
    "$home/bin/python" "$(ls /context/wheels/pip-*.whl)/pip" "$@" --quiet --disable-pip-version-check
}

compile() {
    # Compiled once, and never looked at again: the root is read-only where this runs. Without a time in them, equal
    # sources make equal files.
    # Of Kubernetes' client, whose classes are thousands, only what is used; the rest is compiled by nobody.
    "$home/bin/python" -m compileall -q -j 0 --invalidation-mode unchecked-hash -x '/kubernetes/' "$@" || true
    for part in client client/api/core_v1_api.py client/api/authorization_v1_api.py client/api/__init__.py config; do
        [ ! -e "$1/kubernetes/$part" ] ||
            "$home/bin/python" -m compileall -q -l --invalidation-mode unchecked-hash "$1/kubernetes/$part" || true
    done
}

case $1 in
dependencies)
    python3 -m venv --without-pip ${2:+"$2"} $home
    pip install --no-index --no-deps --no-compile --no-cache-dir $(ls /context/wheels/*.whl | grep -v /pip-)
    site=$("$home/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    # What nothing imports at run time: tests, headers and type stubs, C sources.
    find "$site" -type d \( -name tests -o -name test \) -path '*/numpy/*' -prune -exec rm -rf {} +
    find "$site" -type d -name tests \( -path '*/sklearn/*' -o -path '*/scipy/*' -o -path '*/pyarrow/*' \) -prune \
        -exec rm -rf {} +
    find "$site" -type f \( -name '*.pyi' -o -name '*.c' -o -name '*.pyx' -o -name '*.pxd' -o -name '*.h' -o -name '*.a' \) \
        -delete
    rm -rf "$site"/torch/include "$site"/torch/test "$site"/torch/bin/test_* "$site"/pyarrow/include "$site"/kubernetes/aio
    compile "$site"
    ;;
own)
    touch /context/before
    pip install --no-index --no-deps --no-compile --no-cache-dir /context/own/*.whl
    site=$("$home/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    compile "$site/fl" "$site/server" "$site/edge" "$site/simulations"
    pip check >&2
    # For the SBOM, which build.sh makes.
    "$home/bin/python" - >$home/packages.json <<'PYTHON'
import importlib.metadata, json

found = (one.metadata for one in importlib.metadata.distributions())
print(json.dumps(sorted(
    ({"name": one["Name"], "version": one["Version"], "licence": one.get("License-Expression") or one.get("License") or ""}
     for one in found), key=lambda one: one["name"].lower())))
PYTHON
    mkdir /own
    cd $home
    find . -newer /context/before \( -type f -o -type l \) -print0 | xargs -0 cp -a --parents -t /own
    home=/own
    ;;
esac
find $home -exec touch -h -d "@${SOURCE_DATE_EPOCH:-0}" {} +
