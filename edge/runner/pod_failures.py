"""What became of a task's pod, read from what Kubernetes says about it, in words that the centre may read.

A pod that was taken away (evicted, preempted, drained, its node lost or reclaimed) is *lost*: its task may run anew. A
pod that fails for what it is (its image, its memory, its deadline) would fail again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from edge.runner.pod_spec import TASK

LONGEST = 400
_TAKEN = {
    "Evicted": "the node evicted it",
    "Preempting": "it had to give way to a pod of higher priority",
    "Preempted": "it had to give way to a pod of higher priority",
    "Shutdown": "its node was shut down",
    "NodeShutdown": "its node was shut down",
    "Terminated": "its node was shut down",
    "NodeLost": "its node was lost",
    "NodeAffinity": "its node is none that it may run on any more",
    "UnexpectedAdmissionError": "its node could not give it its devices",
}
_TAKEN_BY = {
    "PreemptionByScheduler": "it had to give way to a pod of higher priority",
    "DeletionByTaintManager": "its node was tainted or lost",
    "EvictionByEvictionAPI": "its node was drained",
    "DeletionByPodGC": "its node is gone",
    "TerminationByKubelet": "its node ended it",
}
_HOPELESS_IMAGE = ("ErrImageNeverPull", "InvalidImageName")
_NO_IMAGE = ("ErrImagePull", "ImagePullBackOff", "ImageInspectError", "RegistryUnavailable", *_HOPELESS_IMAGE)
_NO_START = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")


@dataclasses.dataclass(frozen=True, slots=True)
class Trouble:
    """Why a pod runs no task."""

    words: str
    is_lost: bool = False
    """Whether the pod was taken away, so that the task may run anew."""
    is_waiting: bool = False
    """Whether it may still become better; counts once the time for it is over."""
    is_image: bool = False
    """Whether it is about the image, for which there is less time."""


def look(pod: Mapping[str, Any] | None) -> Trouble | None:
    """What is wrong with a pod; ``None`` if nothing is.

    Args:
        pod: As the API gives it; ``None`` if it has none of the name.
    """
    if pod is None:
        return Trouble("its pod was deleted", is_lost=True)
    status = pod.get("status", {})
    if taken := _taken_by(status):
        return Trouble(taken, is_lost=True)
    if pod.get("metadata", {}).get("deletionTimestamp"):
        return Trouble("its pod was deleted", is_lost=True)
    if status.get("phase") == "Failed":
        return _failed(status)
    if status.get("phase") == "Succeeded":
        return Trouble("its pod ended by itself", is_lost=True)
    return _waiting(status)


def describe_wait(pod: Mapping[str, Any] | None) -> str:
    """What a pod waits for that is not running yet, for a message about a wait that was too long."""
    trouble = look(pod)
    if trouble is not None:
        return trouble.words
    names = {state: one for one in _container(pod or {}) for state in one.get("state", {})}
    return "it was still being made" if "waiting" in names or not names else "it did not call the runner"


def _taken_by(status: Mapping[str, Any]) -> str:
    """By what a pod was taken away, in words; empty if it wasn't."""
    for condition in status.get("conditions") or ():
        if condition.get("type") == "DisruptionTarget" and condition.get("status") == "True":
            words = _TAKEN_BY.get(condition.get("reason", ""), "the cluster took it away")
            return _with(words, condition.get("message"))
    reason = status.get("reason", "")
    return _with(_TAKEN[reason], status.get("message")) if reason in _TAKEN else ""


def _failed(status: Mapping[str, Any]) -> Trouble:
    reason = status.get("reason", "")
    if reason == "DeadlineExceeded":
        return Trouble("its pod ran longer than the site allows")
    if reason.startswith("OutOf"):
        # A pod that the kubelet did not admit: another took what was free when it was scheduled.
        return Trouble(_with("its node had no room for it any more", status.get("message")), is_lost=True)
    for container in _container({"status": status}):
        ended = container.get("state", {}).get("terminated")
        if not ended:
            continue
        if ended.get("reason") == "OOMKilled":
            return Trouble("its pod's memory ran out: the site allows it no more")
        words = f"its pod's process ended with status {ended.get('exitCode')}"
        return Trouble(_with(words, ended.get("message") or ended.get("reason")))
    return Trouble(_with(f"its pod failed ({reason or 'no reason given'})", status.get("message")))


def _waiting(status: Mapping[str, Any]) -> Trouble | None:
    for condition in status.get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            if condition.get("reason") == "SchedulingGated":
                return Trouble("its pod waits in a queue of the cluster", is_waiting=True)
            return Trouble(_with("no node can take its pod", condition.get("message")), is_waiting=True)
    for container in _container({"status": status}):
        state = container.get("state", {}).get("waiting") or {}
        reason, message = state.get("reason", ""), state.get("message")
        if reason in _NO_IMAGE:
            words = _with(f"the image cannot be had ({reason})", message)
            return Trouble(words, is_waiting=reason not in _HOPELESS_IMAGE, is_image=True)
        if reason in _NO_START:
            # Also while its Secret is on its way, so it gets its time.
            return Trouble(_with(f"its container cannot be made ({reason})", message), is_waiting=True, is_image=True)
    return None


def _container(pod: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """What is said about the task's own container."""
    statuses = pod.get("status", {}).get("containerStatuses") or ()
    return [container for container in statuses if container.get("name") == TASK]


def _with(words: str, message: str | None) -> str:
    message = " ".join((message or "").split())
    return f"{words}: {message[:LONGEST]}" if message else words
