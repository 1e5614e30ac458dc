"""Configuration of K3s: pure text from the fleet file.

Hardening follows K3s' own guide: https://docs.k3s.io/security/hardening-guide.
"""

from __future__ import annotations

from typing import Any

import yaml

from edge.fleet.site_config import KubernetesConfig

CONFIG = "/etc/rancher/k3s/config.yaml"
REGISTRIES = "/etc/rancher/k3s/registries.yaml"
SYSCTL = "/etc/sysctl.d/90-kubelet.conf"
PSA = "/var/lib/rancher/k3s/server/psa.yaml"
AUDIT = "/var/lib/rancher/k3s/server/audit.yaml"
AUDIT_LOG = "/var/lib/rancher/k3s/server/logs/audit.log"

SYSCTL_TEXT = """\
vm.panic_on_oom=0
vm.overcommit_memory=1
kernel.panic=10
kernel.panic_on_oops=1
"""
"""What a kubelet with protect-kernel-defaults asks of the kernel."""

AUDIT_TEXT = """\
apiVersion: audit.k8s.io/v1
kind: Policy
rules:
- level: Metadata
"""

PSA_TEXT = """\
apiVersion: apiserver.config.k8s.io/v1
kind: AdmissionConfiguration
plugins:
- name: PodSecurity
  configuration:
    apiVersion: pod-security.admission.config.k8s.io/v1
    kind: PodSecurityConfiguration
    defaults:
      enforce: restricted
      enforce-version: latest
      audit: restricted
      audit-version: latest
      warn: restricted
      warn-version: latest
    exemptions:
      usernames: []
      runtimeClasses: []
      namespaces: [kube-system, nvidia-device-plugin]
"""


def config_text(kubernetes: KubernetesConfig, *, site: str) -> str:
    """K3s' ``config.yaml``."""
    server = kubernetes.role == "server"
    config: dict[str, Any] = {"node-label": [f"fedfleet/site={site}"]}
    kubelet = []
    if kubernetes.hardened:
        config["protect-kernel-defaults"] = True
        kubelet += ["streaming-connection-idle-timeout=5m"]
    if server:
        config |= {"write-kubeconfig-mode": "0600", "disable": ["traefik", "servicelb"]}
        config["secrets-encryption"] = kubernetes.encrypt_secrets
        api = ["event-ttl=15m0s"] if kubernetes.low_write else []
        if kubernetes.hardened:
            api += [
                f"admission-control-config-file={PSA}",
                f"audit-policy-file={AUDIT}",
                f"audit-log-path={AUDIT_LOG}",
                "audit-log-maxage=30",
                "audit-log-maxbackup=10",
                "audit-log-maxsize=100",
            ]
            config["kube-controller-manager-arg"] = ["terminated-pod-gc-threshold=10"]
        if api:
            config["kube-apiserver-arg"] = api
        if kubernetes.low_write:
            config["disable"] = [*config["disable"], "metrics-server"]
            kubelet += ["node-status-update-frequency=1m"]
    else:
        config |= {"server": kubernetes.server, "token-file": kubernetes.agent_token_file}
    if kubelet:
        config["kubelet-arg"] = kubelet
    text: str = yaml.safe_dump(config, sort_keys=True)
    return text


def registries_text(kubernetes: KubernetesConfig) -> str:
    """K3s' ``registries.yaml``; empty without mirrors."""
    if not kubernetes.registries:
        return ""
    text: str = yaml.safe_dump(dict(kubernetes.registries), sort_keys=True)
    return text


def started_with(kubernetes: KubernetesConfig, *, site: str, version: str) -> str:
    """All that K3s reads at its start: when it differs, K3s must be started anew."""
    hardened = PSA_TEXT + AUDIT_TEXT + SYSCTL_TEXT if kubernetes.hardened else ""
    return version + config_text(kubernetes, site=site) + registries_text(kubernetes) + hardened
