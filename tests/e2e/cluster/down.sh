#!/usr/bin/env bash
# End the test cluster and take away all that it made: processes, mounts, network, control groups, files, settings.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source-path=SCRIPTDIR source=settings.sh
. "$here/settings.sh"

if [ -e "$STATE/pid" ] && [ -e "/proc/$(cat "$STATE/pid")" ]; then
    pid=$(cat "$STATE/pid")
    # Only what up.sh started has this path in its arguments; the number might be somebody else's by now.
    if tr '\0' ' ' <"/proc/$pid/cmdline" | grep -qF "inside.sh"; then
        say "ending"
        # The kernel ends every process of a namespace whose first one ends.
        kill -KILL "$(cat "$STATE/init")" 2>/dev/null || true
        for _ in $(seq 100); do [ -e "/proc/$pid" ] || break; sleep 0.1; done
        kill -KILL "$pid" 2>/dev/null || true
    fi
fi
# The pods' network namespaces had names, which outlive them; one that is mounted is somebody else's.
for name in /run/netns/cni-*; do [ ! -e "$name" ] || mountpoint -q "$name" || rm -f "$name"; done
! ip link show "$LINK" >/dev/null 2>&1 || ip link delete "$LINK"

for controller in /sys/fs/cgroup/*/; do
    group=$controller/$CGROUP
    [ -d "$group" ] || continue
    for _ in $(seq 50); do
        find "$group" -depth -type d -exec rmdir {} + 2>/dev/null && break
        sleep 0.1
    done
    [ ! -d "$group" ] || say "cannot remove $group: processes are left in it: $(cat "$group"/cgroup.procs | tr '\n' ' ')"
done

if [ -e "$STATE/sysctls" ]; then
    while IFS= read -r line; do [ -z "$line" ] || sysctl -qw "$line"; done <"$STATE/sysctls"
fi
if [ -e "$STATE/not-there" ]; then
    while IFS= read -r path; do [ -z "$path" ] || rm -rf "$path"; done <"$STATE/not-there"
fi
rm -rf "$STATE"
