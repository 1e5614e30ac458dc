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
    name=$(basename "$archive" .tar)
    [ "$name" = pause ] || name=fl-$name
    ctr=(ctr --address "$STATE/containerd/containerd.sock" --namespace k8s.io images)
    digest=$(cat "${archive%.tar}.digest" 2>/dev/null || true)
    if [ -n "$digest" ] && [ -n "$("${ctr[@]}" ls -q "name==localhost/$name@$digest")" ]; then
        continue
    fi
    say "importing $name"
    # The name with the digest is what a chart pins.
    "${ctr[@]}" import --digests --base-name "localhost/$name" "$archive" >/dev/null
done
