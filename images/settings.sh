# Names, places and versions of the images; sourced by the scripts beside it.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CACHE=${FEDFLEET_CACHE:-$HOME/.cache/fedfleet}
NATIVE=$(uname -m | sed 's/x86_64/amd64/; s/aarch64/arm64/')
ARCH=${ARCH:-$NATIVE}
SUFFIX=
[ "$ARCH" = "$NATIVE" ] || SUFFIX=-$ARCH    # of names, for an architecture that is not this machine's
OWN_BASE=localhost/debian:bookworm-python$SUFFIX
PYTHON=${PYTHON:-$root/.venv/bin/python}
LAYERS_MB=${LAYERS_MB:-30000}
# The time of the last commit stands for the time of the build, so that equal sources make equal images.
EPOCH=${SOURCE_DATE_EPOCH:-$(git -C "$root" log -1 --format=%ct 2>/dev/null || echo 1767225600)}
# Without a daemon, without privileges that a container would need, with a store of our own.
BUILDAH=(buildah --root "$CACHE/buildah/root" --runroot "$CACHE/buildah/run" --storage-driver overlay)
export BUILDAH_ISOLATION=chroot

can_run() { # an image of another architecture is built by its own programs
    [ -z "$SUFFIX" ] || grep -qs '^enabled' /proc/sys/fs/binfmt_misc/qemu-"$(sed 's/arm64/aarch64/; s/amd64/x86_64/' <<<"$ARCH")" ||
        { say "programs of $ARCH cannot run here: install qemu-user-static, with binfmt_misc mounted"; exit 4; }
}

say() { printf '%s images: %s\n' "$(date +%T)" "$*" >&2; }
