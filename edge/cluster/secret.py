"""One Secret of our own namespace, read and written with the rights of our service account."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import urllib3
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

from fl.errors import RefusedError, StorageError, UnreachableError

CALL_S = 10.0
NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
MOST_BYTES = 1000 * 1000
"""A Secret holds 1 MiB."""


def own_namespace() -> str:
    """The namespace that we run in.

    Raises:
        UnreachableError: If we run in no cluster and nothing names one.
    """
    if given := os.environ.get("FEDFLEET_NAMESPACE"):
        return given
    try:
        return NAMESPACE_FILE.read_text(encoding="ascii").strip()
    except OSError as err:
        hint = "run in a pod with a service account, or set KUBECONFIG and FEDFLEET_NAMESPACE"
        raise UnreachableError("no cluster: this process has no service account", hint=hint) from err


class ClusterSecret:
    """A Secret that is there already: the chart makes it, empty, so that no right to create Secrets is needed.

    Args:
        name: Its name.
        namespace: Where it is; ours if not given.

    Raises:
        UnreachableError: If nothing says where the API server is; in every method, if that does not answer.
        RefusedError: In every method, if there is no such Secret, or we may not.
    """

    def __init__(self, name: str, namespace: str | None = None) -> None:
        self.name = name
        self.namespace = namespace or own_namespace()
        settings = client.Configuration()
        known: Any = config
        try:
            known.load_incluster_config(settings)
        except config.ConfigException:
            try:
                known.load_kube_config(os.environ.get("KUBECONFIG"), client_configuration=settings)
            except (config.ConfigException, OSError) as err:
                raise UnreachableError(f"no cluster to keep a Secret in: {err}", hint="set KUBECONFIG") from err
        self._api: Any = client.CoreV1Api(client.ApiClient(settings))

    def read(self) -> dict[str, bytes]:
        """What is in it, by name."""
        found = self._call(self._api.read_namespaced_secret, self.name, self.namespace)
        return {name: base64.b64decode(value) for name, value in (found.data or {}).items()}

    def write(self, files: Mapping[str, bytes]) -> None:
        """Put these in place of what is in it; names that are not given are removed.

        Raises:
            StorageError: If it is more than a Secret holds.
        """
        if (size_bytes := sum(map(len, files.values()))) > MOST_BYTES:
            raise StorageError(f"the site's identity is {size_bytes} bytes, more than a Secret holds")
        old = self._call(self._api.read_namespaced_secret, self.name, self.namespace).data or {}
        data: dict[str, str | None] = dict.fromkeys(old)
        data |= {name: base64.b64encode(content).decode() for name, content in files.items()}
        self._call(self._api.patch_namespaced_secret, self.name, self.namespace, {"data": data})

    def _call(self, method: Any, *arguments: Any) -> Any:
        try:
            return method(*arguments, _request_timeout=CALL_S)
        except urllib3.exceptions.HTTPError as err:
            raise UnreachableError(f"the cluster's API server does not answer: {str(err)[:300]}") from err
        except ApiException as err:
            if err.status in (429, 500, 502, 503, 504):
                raise UnreachableError(f"the cluster's API server cannot answer: {err.status} {err.reason}") from err
            what = f"Secret {self.namespace}/{self.name}"
            hint = "helm upgrade the site's chart: it makes the Secret, and the Role to read and write it"
            if err.status == 404:
                raise RefusedError(f"there is no {what}", hint=hint) from err
            raise RefusedError(f"the cluster refuses {what}: {err.status} {err.reason}", hint=hint) from err
