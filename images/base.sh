#!/usr/bin/env bash
# The base image from Debian's own mirror, where no container registry can be reached: localhost/debian:bookworm-python.
#
# usage: base.sh        as root, about a minute; what is in the cache is not made again; ARCH=arm64 for another architecture
# It takes the place of BASE in the Containerfiles: Debian 12 with its Python 3.11, and nothing that only apt needs.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source-path=SCRIPTDIR source=settings.sh
. "$here/settings.sh"

"${BUILDAH[@]}" inspect --type image "$OWN_BASE" >/dev/null 2>&1 && exit 0
can_run
root=$CACHE/images/debian$SUFFIX
if [ ! -e "$root/.whole" ]; then
    rm -rf "$root"
    mkdir -p "$root"
    say "debootstrap"
    SOURCE_DATE_EPOCH=$EPOCH nice -n 19 debootstrap --arch="$ARCH" --variant=minbase \
        --include=python3,ca-certificates,libstdc++6 bookworm "$root" >"$CACHE/images/debootstrap$SUFFIX.log"
    touch "$root/.whole"
fi
container=$("${BUILDAH[@]}" from --arch "$ARCH" scratch)
mount=$("${BUILDAH[@]}" mount "$container")
# What no program reads: indexes of apt, translations, manuals. Licences stay.
rsync -a --delete --exclude=/.whole --exclude='/var/cache/*' --exclude='/var/lib/apt/lists/*' --exclude='/var/log/*' \
    --exclude='/usr/share/locale/*' --exclude='/usr/share/man/*' --exclude='/usr/share/info/*' \
    --include='/usr/share/doc/*/' --include='/usr/share/doc/*/copyright' --exclude='/usr/share/doc/**' \
    --exclude='/dev/*' --exclude='__pycache__' --exclude='/usr/lib/python3*/lib2to3' --exclude='/usr/lib/python3*/idlelib' \
    --exclude='/usr/lib/python3*/pydoc_data' --exclude='/var/lib/dpkg/info/*.md5sums' \
    "$root/" "$mount/"
: >"$mount/etc/machine-id"
find "$mount" -newermt "@$EPOCH" -print0 | xargs -0 -r touch -h -d "@$EPOCH"
"${BUILDAH[@]}" unmount "$container" >/dev/null
"${BUILDAH[@]}" config --arch "$ARCH" --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin --cmd '["python3"]' "$container"
"${BUILDAH[@]}" commit -q --rm --timestamp "$EPOCH" "$container" "$OWN_BASE" >/dev/null
say "made $OWN_BASE"
