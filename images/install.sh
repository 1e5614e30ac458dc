#!/bin/sh
# Runs in an image's build stage: fedfleet and its dependencies from wheels alone into /opt/fedfleet.
#
# usage: install.sh EXTRAS [--system-site-packages]
set -eu
extras=$1
python3 -m venv --without-pip ${2:+"$2"} /opt/fedfleet
bin=/opt/fedfleet/bin
wheels=/context/wheels
"$bin/python" "$(ls $wheels/pip-*.whl)/pip" install --quiet --no-index --find-links "$wheels" --no-cache-dir --no-compile \
    --disable-pip-version-check "fedfleet${extras:+[$extras]}"
site=$("$bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
# What nothing imports at run time: tests, headers and type stubs of NumPy and torch, C sources.
find "$site" -type d \( -name tests -o -name test \) -path '*/numpy/*' -prune -exec rm -rf {} +
find "$site" -type d -name tests \( -path '*/sklearn/*' -o -path '*/scipy/*' -o -path '*/pyarrow/*' \) -prune -exec rm -rf {} +
find "$site" -type f \( -name '*.pyi' -o -name '*.c' -o -name '*.pyx' -o -name '*.pxd' -o -name '*.h' -o -name '*.a' \) -delete
rm -rf "$site"/torch/include "$site"/torch/test "$site"/torch/bin/test_* "$site"/pyarrow/include
# Compiled once, and never looked at again: the root is read-only where this runs. Without a time in them, equal
# sources make equal files.
"$bin/python" -m compileall -q -j 0 --invalidation-mode unchecked-hash "$site" || true
# A list of what is in it, beside it; build.sh makes the SBOM from it.
"$bin/python" - >/opt/fedfleet/packages.json <<'PYTHON'
import importlib.metadata as m, json
print(json.dumps(sorted(
    ({"name": d.metadata["Name"], "version": d.version, "licence": d.metadata.get("License-Expression") or d.metadata.get("License") or ""}
     for d in m.distributions()), key=lambda one: one["name"].lower())))
PYTHON
find /opt/fedfleet -exec touch -h -d "@${SOURCE_DATE_EPOCH:-0}" {} +
