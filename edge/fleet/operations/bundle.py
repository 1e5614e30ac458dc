"""The bundle at a host: what it may import is what somebody trusted signed."""

from __future__ import annotations

import hashlib
import shlex

from pyinfra.api.operation import operation
from pyinfra.context import host

from edge.fleet import tools
from edge.fleet.facts.system import FileOf
from edge.fleet.operations.command import Commands, command, look

NAMESPACE = "fedfleet-bundle"
"""What signatures of bundles are made for; one made for something else does not count."""

SIGNER = "fleet"


@operation()
def verified(manifest: str, signature: str, signers: str) -> Commands:
    """A manifest on the host that the host itself has checked.

    Args:
        manifest: Content of ``bundle.json``.
        signature: Content of ``bundle.json.sig``.
        signers: Who may sign, in the form of ``ssh-keygen``. A host that has its own list uses that.
    """
    path = f"{tools.BUNDLE}/bundle.json"
    there = look(FileOf, path=path)
    if there and there.sha256 == hashlib.sha256(manifest.encode()).hexdigest():
        host.noop("this bundle was verified here")
        return
    own = shlex.quote(tools.SIGNERS)
    lines = [
        "set -e",
        "umask 022",
        f"mkdir -p {tools.BUNDLE} /etc/fedfleet",
        f"cd {tools.BUNDLE}",
        # One stream, three files: the lengths cut it.
        f"head -c {len(manifest.encode())} > new.json; head -c {len(signature.encode())} > new.sig; cat > new.signers",
        f"[ -e {own} ] || install -m 644 new.signers {own}",
        f"ssh-keygen -Y verify -f {own} -I {SIGNER} -n {NAMESPACE} -s new.sig < new.json",
        "mv new.json bundle.json && rm -f new.sig new.signers",
    ]
    yield command("\n".join(lines), timeout_s=60, stdin=f"{manifest}{signature}{signers}")
