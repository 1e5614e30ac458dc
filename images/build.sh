#!/usr/bin/env bash
# Build an image: buildah alone, no daemon. The result is an oci-archive with a digest, and an SBOM beside it.
#
# usage: build.sh NAME       server, site, site-torch, site-cuda or site-jetson
#
# BASE                   base image; `own` makes one from Debian's mirror, where no container registry can be reached
# PYTHON                 makes the wheels; its version is the base's (default .venv/bin/python)
# ARCH                   amd64 or arm64 (default: this machine's); another is built by its own programs, which qemu runs
# SOURCE_DATE_EPOCH      the time that is written into the image; the last commit's if not given
# UNPACKED=1             don't compress layers: larger, and faster where it is only carried to this machine's cluster
# FEDFLEET_CACHE         where results go: images/NAME.tar, NAME.digest, NAME.sbom.json (default ~/.cache/fedfleet); with
#                        -ARCH behind NAME, where that is not this machine's
# LAYERS_MB              what layers of earlier builds may take there (default 30000)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source-path=SCRIPTDIR source=settings.sh
. "$here/settings.sh"

name=${1:-}
case $name in
server) file=server extras=postgres ;;
site) file=site extras=k8s ;;
site-torch) file=site extras=k8s,torch ;;
site-cuda) file=site-cuda extras=k8s,torch ;;
site-jetson) file=site-jetson extras=k8s ;;
*) say "server, site, site-torch, site-cuda or site-jetson, not '$name'"; exit 2 ;;
esac
can_run
extras=${extras:+[$extras]} name=$name$SUFFIX
version=$("$PYTHON" -c 'import tomllib; print(tomllib.load(open("'"$root"'/pyproject.toml", "rb"))["project"]["version"])')
results=$CACHE/images
mkdir -p "$results"
work=$(mktemp -d "$results/.$name.XXXXXX")
trap 'rm -rf "$work"' EXIT

if [ "${BASE:-}" = own ]; then
    bash "$here/base.sh"
    BASE=$OWN_BASE
fi

# Layers of earlier builds make the next one fast; they are kept up to a bound.
[ ! -d "$CACHE/buildah" ] || [ "$(du -sm "$CACHE/buildah" | cut -f 1)" -le "$LAYERS_MB" ] || "${BUILDAH[@]}" rmi --prune >/dev/null

# Nothing to do when nothing has changed that the image is made of.
code=$(cd "$root" && git ls-files -z --cached --others --exclude-standard -- fl server edge simulations pyproject.toml \
    constraints.txt images | xargs -0 sha256sum 2>/dev/null | sha256sum | cut -d ' ' -f 1)
made_of="$code ${BASE:-} $ARCH ${UNPACKED:-}"
if [ -e "$results/$name.tar" ] && [ "$(cat "$results/$name.code" 2>/dev/null)" = "$made_of" ]; then
    say "$name is as it was"
    exit 0
fi

pip() { # command, options; without pip's remarks on local indexes that lack a package
    "$PYTHON" -m pip "$1" --quiet --disable-pip-version-check --constraint "$root/constraints.txt" "${@:2}" \
        2> >(grep -v "neither a file nor a directory" >&2)
}

foreign_wheels() { # in place of those for this machine; what has none for any machine is taken over
    local machine release
    machine=$(sed 's/arm64/aarch64/; s/amd64/x86_64/' <<<"$ARCH")
    mv "$work/wheels" "$work/native"
    rm -f "$work"/native/*linux*.whl
    local options=(--only-binary=:all: --python-version "$("$PYTHON" -c 'import sys; print("%d%d" % sys.version_info[:2])')")
    for release in _2_{36..17} 2014; do options+=(--platform "manylinux${release}_$machine"); done    # Debian 12's, and older
    pip download "${options[@]}" --find-links "$work/native" --dest "$work/wheels" pip "$(ls "$work"/own/*.whl)$extras"
    rm -rf "$work/native" "$work"/wheels/fedfleet-*.whl
}

# pip keeps what it has downloaded and built in its own cache; nothing is fetched twice.
say "$name: wheels"
mkdir "$work/wheels" "$work/own" "$work/source"
(cd "$root" && cp -a --parents -t "$work/source" pyproject.toml README.md LICENSE fl server edge simulations)
# The time in our own wheel is the image's, because pip writes the wheel's digest into what it installs.
SOURCE_DATE_EPOCH=$EPOCH pip wheel --wheel-dir "$work/wheels" pip "$work/source$extras"
mv "$work"/wheels/fedfleet-*.whl "$work/own/"
rm -rf "$work/source"
[ -z "$SUFFIX" ] || foreign_wheels
find "$work/wheels" "$work/own" -exec touch -d "@$EPOCH" {} +
cp "$here/install.sh" "$work/"
cp "$here/Containerfile.$file" "$work/Containerfile"
printf 'root:x:0:0:root:/root:/usr/sbin/nologin\nfedfleet:x:10001:10001::/tmp:/usr/sbin/nologin\n' >"$work/passwd"
printf 'root:x:0:\nfedfleet:x:10001:\n' >"$work/group"

say "$name: image"
"${BUILDAH[@]}" bud --quiet --layers --arch "$ARCH" --timestamp "$EPOCH" ${BASE:+--build-arg "BASE=$BASE"} \
    --build-arg "SOURCE_DATE_EPOCH=$EPOCH" --pull=false \
    --label "org.opencontainers.image.title=fedfleet $name" \
    --label "org.opencontainers.image.version=$version" \
    --label "org.opencontainers.image.licenses=Apache-2.0" \
    --label "org.opencontainers.image.revision=$(git -C "$root" rev-parse HEAD 2>/dev/null || echo unknown)" \
    --label "dev.fedfleet.code=sha256:$code" \
    --tag "localhost/fl-$name:$version" "$work" >/dev/null
archive=$results/$name.tar
"${BUILDAH[@]}" push --quiet ${UNPACKED:+--disable-compression} --digestfile "$work/digest" "localhost/fl-$name:$version" \
    "oci-archive:$work/image.tar:localhost/fl-$name:$version"
mv "$work/image.tar" "$archive"
mv "$work/digest" "$results/$name.digest"
container=$("${BUILDAH[@]}" from --arch "$ARCH" --pull=false "localhost/fl-$name:$version")
mount=$("${BUILDAH[@]}" mount "$container")
"$PYTHON" "$here/sbom.py" "$mount" --name "fl-$name" --version "$version" --digest "$(cat "$results/$name.digest")" \
    --epoch "$EPOCH" >"$results/$name.sbom.json"
du -sm --apparent-size "$mount" | cut -f 1 >"$results/$name.mb"
"${BUILDAH[@]}" unmount "$container" >/dev/null
"${BUILDAH[@]}" rm "$container" >/dev/null
echo "$made_of" >"$results/$name.code"
say "$name: $(cat "$results/$name.mb") MB unpacked, $(du -m "$archive" | cut -f 1) MB in the archive, $(cat "$results/$name.digest")"
