"""How a site gets its identity: it makes its keys itself; what comes from outside is a token that works once."""

from __future__ import annotations

import shlex

from pyinfra.api.operation import operation
from pyinfra.context import host

from edge.fleet.facts.cluster import Objects
from edge.fleet.operations.command import Commands, command, look


@operation()
def token(kubectl: str, namespace: str, secret: str, identity: str, value: str) -> Commands:
    """A Secret with a join token, for a site that has no identity yet; a token left from an earlier try is replaced.

    Args:
        kubectl: kubectl's command line (``edge.fleet.tools.kubectl``).
        namespace: Of the release.
        secret: Name of the Secret that takes the token.
        identity: Name of the Secret whose existence means that the site has joined.
        value: The token; it goes through standard input only.
    """
    known = f"secret/{identity}"
    if known in look(Objects, kubectl=kubectl, namespace=namespace, names=known):
        host.noop("the site has its identity")
        return
    name = f"{shlex.quote(secret)} -n {shlex.quote(namespace)}"
    yield command(
        f"{kubectl} delete secret {name} --ignore-not-found &&",
        f"{kubectl} create secret generic {name} --from-file=token=/dev/stdin",
        timeout_s=60,
        stdin=value,
    )
