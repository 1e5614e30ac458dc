"""The API of the cluster in which task pods run: the only module of the runner that talks to it.

Pods go in and come out as Kubernetes writes them, because clusters from 1.20 to this year's have other fields.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import urllib3
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

from edge.runner.pod_spec import Owner
from fl.errors import BusyError, FLError, RefusedError, UnreachableError

PATIENCE_S = 20.0
CALL_S = 10.0
LONGEST = 400
_TRANSIENT = (429, 500, 502, 503, 504)


class Cluster:
    """One namespace of a cluster, with the rights of our service account (or of ``KUBECONFIG``, where there is none).

    Every method tries again for ``PATIENCE_S`` what the API server could not do just now.

    Args:
        namespace: Where the pods are.
        tick: Called while a call is tried again; what it raises ends that.

    Raises:
        UnreachableError: Here, if nothing says where the API server is; in every method, if it does not answer.
        RefusedError: In every method, if it says no.
    """

    def __init__(self, namespace: str, tick: Callable[[], None] = lambda: None) -> None:
        self.namespace = namespace
        self.tick = tick
        settings = client.Configuration()
        known: Any = config
        try:
            known.load_incluster_config(settings)
        except config.ConfigException:
            try:
                known.load_kube_config(os.environ.get("KUBECONFIG"), client_configuration=settings)
            except (config.ConfigException, OSError) as err:
                hint = "run in a pod with a service account, or set KUBECONFIG"
                raise UnreachableError(f"no cluster to run pods in: {err}", hint=hint) from err
        settings.retries = False
        # Its types want every pod as one of its classes, which drop the fields that they don't know.
        self._api: Any = client.ApiClient(settings)
        self._core: Any = client.CoreV1Api(self._api)
        self._rights: Any = client.AuthorizationV1Api(self._api)

    def create_pod(self, pod: Mapping[str, Any]) -> dict[str, Any]:
        """Make a pod.

        Raises:
            BusyError: If the namespace's quota has no room for it now.
        """
        return self._object(lambda: self._core.create_namespaced_pod(self.namespace, dict(pod), **_RAW))

    def create_secret(self, secret: Mapping[str, Any]) -> None:
        """Make a Secret.

        Raises:
            BusyError: If the namespace's quota has no room for it now.
        """
        self._object(lambda: self._core.create_namespaced_secret(self.namespace, dict(secret), **_RAW))

    def pod(self, name: str) -> dict[str, Any] | None:
        """A pod; ``None`` if there is none of that name."""
        try:
            return self._object(lambda: self._core.read_namespaced_pod(name, self.namespace, **_RAW))
        except _MissingError:
            return None

    def pods(self, selector: str) -> list[dict[str, Any]]:
        """The pods with these labels."""
        answer = self._object(lambda: self._core.list_namespaced_pod(self.namespace, label_selector=selector, **_RAW))
        return list(answer.get("items") or ())

    def delete_pod(self, name: str, *, grace_s: int | None = None) -> None:
        """Delete a pod; one that is gone already is no error."""
        options = {} if grace_s is None else {"grace_period_seconds": grace_s}
        with contextlib.suppress(_MissingError):
            self._object(lambda: self._core.delete_namespaced_pod(name, self.namespace, **options, **_RAW))

    def owner(self, account: str) -> Owner:
        """A ServiceAccount, as the owner of pods."""
        found = self._object(lambda: self._core.read_namespaced_service_account(account, self.namespace, **_RAW))
        return Owner("ServiceAccount", account, found["metadata"]["uid"])

    def warnings(self, pod: str) -> list[str]:
        """What the cluster warns about a pod, oldest first; nothing if we may not read it."""
        selector = f"involvedObject.name={pod},type=Warning"
        try:
            answer = self._object(
                lambda: self._core.list_namespaced_event(self.namespace, field_selector=selector, **_RAW)
            )
        except FLError:
            return []
        return [" ".join(str(event.get("message", "")).split())[:LONGEST] for event in answer.get("items") or ()]

    def may(self, verb: str, resource: str, *, namespace: str | None = None) -> bool:
        """Whether we may do something, by what the cluster itself says.

        Args:
            verb: ``create``, ``get`` and so on.
            resource: In the plural.
            namespace: Where; ours if not given.
        """
        where = self.namespace if namespace is None else namespace
        attributes = {"namespace": where, "verb": verb, "resource": resource}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        answer = self._object(lambda: self._rights.create_self_subject_access_review(review, **_RAW))
        return bool(answer.get("status", {}).get("allowed"))

    def close(self) -> None:
        """Close the connections."""
        self._api.close()

    def _object(self, call: Callable[[], Any]) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE_S
        delay_s = 0.1
        while True:
            try:
                with _in_words():
                    return dict(json.loads(call().data))
            except _TransientError as err:
                if time.monotonic() > deadline:
                    raise UnreachableError(f"the cluster's API server does not answer: {err}") from err
            self.tick()
            time.sleep(delay_s)
            delay_s = min(2 * delay_s, 2.0)


_RAW: dict[str, Any] = {"_preload_content": False, "_request_timeout": CALL_S}


class _TransientError(Exception):
    """The API server could not do it just now."""


class _MissingError(RefusedError):
    """There is no such thing in the cluster."""


@contextlib.contextmanager
def _in_words() -> Iterator[None]:
    """Turn the client's errors into ours; what the API server said is cut short."""
    try:
        yield
    except urllib3.exceptions.HTTPError as err:
        raise _TransientError(str(err)[:LONGEST]) from err
    except ApiException as err:
        said = _message(err)
        if err.status in _TRANSIENT:
            raise _TransientError(said) from err
        if err.status == 404:
            raise _MissingError(f"the cluster has it not: {said}") from err
        if err.status == 403 and "exceeded quota" in said:
            raise BusyError(f"the namespace's quota is exhausted: {said}") from err
        if err.status == 401:
            raise RefusedError(f"the cluster does not know our service account: {said}") from err
        hint = "helm upgrade the site's chart: it makes the Role that the runner needs" if err.status == 403 else None
        raise RefusedError(f"the cluster refuses: {said}", hint=hint) from err


def _message(err: ApiException) -> str:
    try:
        said = json.loads(err.body or "")["message"]
    except (TypeError, ValueError, KeyError):
        said = f"{err.status} {err.reason}"
    return " ".join(str(said).split())[:LONGEST]
