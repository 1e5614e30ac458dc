"""Certificates of a cluster: how long they last, and whether today's clients take them."""

from __future__ import annotations

import dataclasses
import datetime
import re
import shlex

from pyinfra.api.facts import FactBase

K3S = "/var/lib/rancher/k3s/server/tls/serving-kube-apiserver.crt /var/lib/rancher/k3s/agent/client-kubelet.crt"
MICROK8S = "/var/snap/microk8s/current/certs/server.crt /var/snap/microk8s/current/certs/front-proxy-client.crt"
MICROK8S_CA = "/var/snap/microk8s/current/certs/ca.crt"


class CertificateEnds(FactBase[dict[str, datetime.datetime]]):
    """When certificates end, by path; those that do not exist are left out."""

    def command(self, paths: str) -> str:
        """A line a certificate; ``paths`` are separated by blanks."""
        files = " ".join(shlex.quote(path) for path in paths.split())
        ask = 'openssl x509 -noout -enddate -in "$f" 2>/dev/null'
        return f'for f in {files}; do [ -r "$f" ] && echo "$f $({ask})"; done; true'

    @staticmethod
    def default() -> dict[str, datetime.datetime]:
        """None known."""
        return {}

    def process(self, output: list[str]) -> dict[str, datetime.datetime]:
        """From ``/path notAfter=Nov 25 10:11:12 2027 GMT``."""
        ends = {}
        for line in output:
            if found := re.match(r"(\S+) notAfter=(\w{3}) +(\d+) (\S+) (\d{4}) GMT", line):
                path, month, day, clock, year = found.groups()
                moment = datetime.datetime.strptime(f"{year} {month} {day} {clock}", "%Y %b %d %H:%M:%S")
                ends[path] = moment.replace(tzinfo=datetime.UTC)
        return ends


@dataclasses.dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority's extensions."""

    has_key_usage: bool
    is_marked_authority: bool


class CertificateAuthority(FactBase[Authority | None]):
    """Whether an authority says what it is for: without keyUsage, Python 3.13 and others refuse it."""

    def command(self, path: str) -> str:
        """The certificate in words."""
        file = shlex.quote(path)
        return f"if [ -r {file} ]; then openssl x509 -noout -text -in {file} 2>/dev/null; fi; true"

    def process(self, output: list[str]) -> Authority | None:
        """``None`` without such a file."""
        text = "\n".join(output)
        if "Certificate:" not in text:
            return None
        return Authority("X509v3 Key Usage" in text, "CA:TRUE" in text)
