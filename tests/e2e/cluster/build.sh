#!/usr/bin/env bash
# Kubernetes 1.20.2 from Debian's source package, into a cache; done once, about 10 minutes on two cores.
#
# usage: build.sh [packages|binaries]     both when nothing is said
#
# FEDFLEET_CACHE: where to keep what was built (default ~/.cache/fedfleet). What is there already is not made again.
# Debian 12, root. The last Kubernetes in Debian whose source package holds the whole of it is this one; no package
# index that we know of has an API server as a binary.
set -euo pipefail

VERSION=1.20.2
SOURCE=kubernetes=1.20.5+really1.20.2-1.1+deb12u1
CACHE=${FEDFLEET_CACHE:-$HOME/.cache/fedfleet}/kubernetes-$VERSION
WANTED="kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy"
BUILD_PACKAGES="golang-1.19-go gcc libc6-dev make rsync jq bsdextrautils dpkg-dev golang-github-modern-go-reflect2-dev"
RUN_PACKAGES="etcd-server containerd runc containernetworking-plugins iptables iproute2 conntrack ethtool util-linux
    buildah catatonit busybox-static debootstrap skopeo"

say() { printf '%s build.sh: %s\n' "$(date +%T)" "$*" >&2; }

install_packages() { # names
    local missing=()
    for name in "$@"; do
        dpkg-query -W -f='${Status}\n' "$name" 2>/dev/null | grep -q '^install ok installed' || missing+=("$name")
    done
    [ "${#missing[@]}" -eq 0 ] && return
    say "installing ${missing[*]}"
    # Nothing that comes with a service may start it: the cluster starts its own, apart from the machine's.
    local policy=/usr/sbin/policy-rc.d made=
    [ -e "$policy" ] || { printf '#!/bin/sh\nexit 101\n' >"$policy"; chmod 0755 "$policy"; made=1; }
    apt-get -o DPkg::Lock::Timeout=900 update -qq >&2
    DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=900 install -y -qq --no-install-recommends \
        "${missing[@]}" >&2 || { [ -z "$made" ] || rm -f "$policy"; return 1; }
    [ -z "$made" ] || rm -f "$policy"
}

have_binaries() {
    for name in $WANTED; do [ -x "$CACHE/bin/$name" ] || return 1; done
}

fetch_source() { # directory
    # The machine's own Debian mirror, asked for sources in an index of our own: its configuration stays as it is.
    local apt=$1/apt
    mkdir -p "$apt/lists/partial"
    local uri
    uri=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(CODENAME)' 2>/dev/null |
        awk '$2 == "bookworm" || $3 == "bookworm" {print $1; exit}')
    [ -n "$uri" ] || { say "apt knows no mirror of Debian 12 (bookworm)"; exit 4; }
    echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $uri bookworm main" >"$apt/sources.list"
    local options=(-o "Dir::Etc::SourceList=$apt/sources.list" -o Dir::Etc::SourceParts=- -o "Dir::State::Lists=$apt/lists")
    apt-get "${options[@]}" update -qq >&2
    (cd "$1" && apt-get "${options[@]}" source -qq --download-only "$SOURCE" >&2)
}

build_binaries() {
    have_binaries && { say "$CACHE/bin is complete"; return; }
    mkdir -p "$CACHE"
    exec 9>"$CACHE/lock"
    flock 9
    have_binaries && return
    # shellcheck disable=SC2086
    install_packages $BUILD_PACKAGES
    local work=$CACHE/work
    mkdir -p "$work"
    compgen -G "$work/kubernetes_1.20.5*orig.tar.gz" >/dev/null || { say "fetching the source"; fetch_source "$work"; }
    local tree=$work/tree
    if [ ! -e "$tree/.unpacked" ]; then
        rm -rf "$tree"
        mkdir -p "$tree"
        tar -C "$tree" --strip-components=1 -xf "$work"/kubernetes_1.20.5*orig.tar.gz
        touch "$tree/.unpacked"
    fi
    # The vendored reflect2 1.0.1 walks Go's maps by their layout before Go 1.18: the API server dies of it now and then.
    rm -f "$tree"/vendor/github.com/modern-go/reflect2/*.{go,s}
    cp /usr/share/gocode/src/github.com/modern-go/reflect2/*.{go,s} "$tree/vendor/github.com/modern-go/reflect2/"
    local root=$tree/.go/src/k8s.io
    mkdir -p "$root"
    ln -sfn ../../.. "$root/kubernetes"
    say "compiling; the log is $CACHE/build.log"
    # `go build` alone fails, because generated code is missing: the Makefile makes it.
    (
        cd "$root/kubernetes"
        export GOROOT=/usr/lib/go-1.19 PATH=/usr/lib/go-1.19/bin:/usr/sbin:/usr/bin:/sbin:/bin
        export GOPATH=$tree/.go CGO_ENABLED=0 FORCE_HOST_GO=y GOCACHE=$work/go-cache
        nice -n 19 make WHAT="$(printf 'cmd/%s ' $WANTED)" KUBE_GIT_VERSION=v$VERSION
    ) >"$CACHE/build.log" 2>&1 || { tail -30 "$CACHE/build.log" >&2; say "the build failed"; exit 1; }
    mkdir -p "$CACHE/bin"
    for name in $WANTED; do install -s -m 0755 "$tree/_output/local/go/bin/$name" "$CACHE/bin/$name"; done
    rm -rf "$work"
    say "built: $(du -sh "$CACHE/bin" | cut -f1) in $CACHE/bin"
}

[ "$(id -u)" -eq 0 ] || { say "root is needed: it installs packages"; exit 2; }
# shellcheck disable=SC2086
case ${1:-all} in
packages) install_packages $RUN_PACKAGES ;;
binaries) build_binaries ;;
all) install_packages $RUN_PACKAGES && build_binaries ;;
*) say "packages, binaries or nothing, not $1"; exit 2 ;;
esac
