# Names, places and versions of the images; sourced by the scripts beside it.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CACHE=${FEDFLEET_CACHE:-$HOME/.cache/fedfleet}
OWN_BASE=localhost/debian:bookworm-python
PYTHON=${PYTHON:-$root/.venv/bin/python}
# The time of the last commit stands for the time of the build, so that equal sources make equal images.
EPOCH=${SOURCE_DATE_EPOCH:-$(git -C "$root" log -1 --format=%ct 2>/dev/null || echo 1767225600)}
# Without a daemon, without privileges that a container would need, with a store of our own.
BUILDAH=(buildah --root "$CACHE/buildah/root" --runroot "$CACHE/buildah/run" --storage-driver overlay)
export BUILDAH_ISOLATION=chroot

say() { printf '%s images: %s\n' "$(date +%T)" "$*" >&2; }
