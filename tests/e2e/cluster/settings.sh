# Names and places of the test cluster; sourced by the scripts beside it.
# FEDFLEET_CACHE: what outlives the cluster (binaries, Debian roots, images). FEDFLEET_CLUSTER: what does not.
CACHE=${FEDFLEET_CACHE:-$HOME/.cache/fedfleet}
KUBERNETES=$CACHE/kubernetes-1.20.2/bin
STATE=${FEDFLEET_CLUSTER:-/var/lib/fedfleet-cluster}
NODE=n1
CGROUP=fedfleet-e2e
LINK=fedfleet0         # our end of the wire to the node
OUTER=10.232.0.1       # our address on it
INNER=10.232.0.2       # the node's
PODS=10.244.0.0/24
SERVICES=10.96.0.0/16
SYSCTLS="vm.overcommit_memory kernel.panic kernel.panic_on_oops"   # written by kubelet, for the whole machine

say() { printf '%s cluster: %s\n' "$(date +%T)" "$*" >&2; }
