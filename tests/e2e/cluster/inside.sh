#!/usr/bin/env bash
# Runs inside the node's namespaces: its network, then every daemon, then waits. Started by up.sh.
set -euo pipefail
for _ in $(seq 200); do [ -e /proc/sys/net/ipv4/conf/eth0 ] && break; sleep 0.05; done
hostname "$NODE"
ip link set lo up
ip address add "$INNER/24" dev eth0
ip link set eth0 up
ip route add default via "$OUTER"
sysctl -qw net.ipv4.ip_forward=1 net.bridge.bridge-nf-call-iptables=1
cd "$STATE"

run() { # name, command…
    local name=$1
    shift
    "$@" >"logs/$name.log" 2>&1 &
}

run etcd etcd --data-dir etcd --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
    --listen-peer-urls http://127.0.0.1:2380 --unsafe-no-fsync
run containerd containerd --config containerd.toml
run apiserver "$KUBERNETES/kube-apiserver" --etcd-servers=http://127.0.0.1:2379 --secure-port=6443 \
    --bind-address=0.0.0.0 --advertise-address="$INNER" --service-cluster-ip-range="$SERVICES" \
    --tls-cert-file=pki/apiserver.crt --tls-private-key-file=pki/apiserver.key --client-ca-file=pki/ca.crt \
    --service-account-key-file=pki/accounts.pub --service-account-signing-key-file=pki/accounts.key \
    --service-account-issuer=https://kubernetes.default.svc --api-audiences=https://kubernetes.default.svc \
    --authorization-mode=Node,RBAC --kubelet-client-certificate=pki/admin.crt --kubelet-client-key=pki/admin.key \
    --kubelet-preferred-address-types=InternalIP --allow-privileged --enable-admission-plugins=NodeRestriction
for _ in $(seq 240); do
    curl -sf --max-time 2 --cacert pki/ca.crt --cert pki/admin.crt --key pki/admin.key https://127.0.0.1:6443/readyz \
        >/dev/null && break
    sleep 0.25
done
run controller-manager "$KUBERNETES/kube-controller-manager" --kubeconfig=pki/controller-manager.kubeconfig \
    --service-account-private-key-file=pki/accounts.key --root-ca-file=pki/ca.crt --use-service-account-credentials \
    --cluster-signing-cert-file=pki/ca.crt --cluster-signing-key-file=pki/ca.key --bind-address=127.0.0.1 \
    --leader-elect=false --concurrent-gc-syncs=4
run scheduler "$KUBERNETES/kube-scheduler" --kubeconfig=pki/scheduler.kubeconfig --leader-elect=false \
    --bind-address=127.0.0.1
run kubelet "$KUBERNETES/kubelet" --config=kubelet.yaml --kubeconfig=pki/kubelet.kubeconfig \
    --container-runtime=remote --container-runtime-endpoint="unix://$STATE/containerd/containerd.sock" \
    --image-service-endpoint="unix://$STATE/containerd/containerd.sock" --root-dir="$STATE/kubelet" \
    --hostname-override="$NODE" --node-ip="$INNER" --cert-dir="$STATE/kubelet-pki" --register-node=true
run proxy "$KUBERNETES/kube-proxy" --kubeconfig=pki/proxy.kubeconfig --proxy-mode=iptables \
    --cluster-cidr="$PODS" --hostname-override="$NODE" --conntrack-max-per-core=0 --bind-address="$INNER"
wait -n || true
echo "a daemon ended; see the other logs"
exit 1
