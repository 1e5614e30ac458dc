#!/usr/bin/env bash
# Start a genuine Kubernetes 1.20.2 of one node: etcd, the control plane, kubelet, kube-proxy and containerd.
#
# All of it lives in namespaces of its own (processes, mounts, network), whose first process is one that down.sh ends:
# with it go the pods, the mounts and the network. Idempotent: a cluster that answers is left as it is.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source-path=SCRIPTDIR source=settings.sh
. "$here/settings.sh"
python=${PYTHON:-$here/../../../.venv/bin/python}

[ "$(id -u)" -eq 0 ] || { say "root is needed"; exit 2; }
kube() { curl -sS --max-time 5 --cacert "$STATE/pki/ca.crt" --cert "$STATE/pki/admin.crt" --key "$STATE/pki/admin.key" \
    "https://$INNER:6443$1"; }
is_ready() { kube "/api/v1/nodes/$NODE" 2>/dev/null |
    jq -e '.status.conditions[]? | select(.type == "Ready" and .status == "True")' >/dev/null; }

if [ -e "$STATE/pid" ] && kill -0 "$(cat "$STATE/pid")" 2>/dev/null; then
    is_ready && { say "is up"; exit 0; }
    say "is there, and does not answer: starting it anew"
fi
bash "$here/build.sh"
bash "$here/down.sh"

mkdir -p "$STATE"/{logs,cni,etcd,kubelet,containerd}
for name in $SYSCTLS; do echo "$name=$(sysctl -n "$name")"; done >"$STATE/sysctls"
for path in /var/log/pods /var/log/containers /var/lib/cni; do [ -e "$path" ] || echo "$path"; done >"$STATE/not-there"
"$python" "$here/pki.py" "$STATE/pki" --node "$NODE" --address "$INNER"

# A control group of version 1 hands no processors to the groups made below it until they are named.
for controller in /sys/fs/cgroup/*/; do
    [ -e "$controller/cgroup.procs" ] || continue
    mkdir -p "$controller/$CGROUP"
    for file in cpuset.cpus cpuset.mems; do
        [ ! -e "$controller/$file" ] || cat "$controller/$file" >"$controller/$CGROUP/$file"
    done
done

fill() { sed -e "s|@STATE@|$STATE|g" -e "s|@CGROUP@|$CGROUP|g" -e "s|@PODS@|$PODS|g" "$here/files/$1" >"$STATE/$2"; }
fill containerd.toml containerd.toml
fill kubelet.yaml kubelet.yaml
fill bridge.conflist cni/10-bridge.conflist

say "starting"
STATE=$STATE KUBERNETES=$KUBERNETES NODE=$NODE LINK=$LINK OUTER=$OUTER INNER=$INNER PODS=$PODS SERVICES=$SERVICES \
    setsid unshare --fork --kill-child --pid --mount --propagation private --mount-proc --net --ipc --uts \
    catatonit -- bash "$here/inside.sh" </dev/null >"$STATE/logs/inside.log" 2>&1 &
echo $! >"$STATE/pid"
for _ in $(seq 100); do
    inner=$(pgrep -P "$(cat "$STATE/pid")" | head -1) && break
    sleep 0.05
done
echo "$inner" >"$STATE/init"
ip link add "$LINK" type veth peer name eth0 netns "/proc/$inner/ns/net"
ip address add "$OUTER/24" dev "$LINK"
ip link set "$LINK" up
ip route replace "$PODS" via "$INNER"
ip route replace "$SERVICES" via "$INNER"

for _ in $(seq 240); do
    kill -0 "$(cat "$STATE/pid")" 2>/dev/null || break
    # A namespace gets its default account a moment after the node is ready; pods need it.
    if is_ready && kube /api/v1/namespaces/default/serviceaccounts/default | jq -e .secrets >/dev/null 2>&1; then
        bash "$here/images.sh"
        say "is up: KUBECONFIG=$STATE/pki/admin.kubeconfig"
        exit 0
    fi
    sleep 0.5
done
say "did not come up within 2 minutes; the logs are in $STATE/logs"
tail -n 5 "$STATE"/logs/*.log >&2
exit 1
