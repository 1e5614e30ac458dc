#!/usr/bin/env bash
# Put images into the cluster's containerd: images.sh ARCHIVE…, each an oci-archive. The pause image comes by itself.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source-path=SCRIPTDIR source=settings.sh
. "$here/settings.sh"

pause=$CACHE/images/pause.tar
if [ ! -e "$pause" ]; then
    mkdir -p "$CACHE/images"
    # What keeps a pod's namespaces open: catatonit does nothing else when it is told to pause.
    store=(buildah --root "$CACHE/buildah/root" --runroot "$CACHE/buildah/run" --storage-driver overlay)
    container=$("${store[@]}" from scratch)
    "${store[@]}" copy -q "$container" /usr/bin/catatonit /catatonit >/dev/null
    "${store[@]}" config --entrypoint '["/catatonit", "-P"]' "$container"
    "${store[@]}" commit -q --rm "$container" "oci-archive:$pause.part:localhost/pause:1" >/dev/null
    mv "$pause.part" "$pause"
fi
for archive in "$pause" "$@"; do
    say "importing $(basename "$archive")"
    ctr --address "$STATE/containerd/containerd.sock" --namespace k8s.io images import --digests --base-name localhost \
        --no-unpack=false "$archive" >/dev/null
done
