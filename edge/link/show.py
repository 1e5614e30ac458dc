"""How the link is and what the policy allows, in words for a terminal."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge import probe, windows
from edge.home import Home
from edge.link.status import read
from edge.policy import Policy
from edge.usage import Usage
from fl.config import to_dict
from fl.console import human_bytes, human_seconds

# The link writes at least every 30 s; older than this, nobody writes any more.
STALE_S = 90.0


def status_now(home: Home, now_s: float | None = None) -> dict[str, Any]:
    """What the link last wrote, and how the GPUs are now; ``state`` is ``stopped`` if no link runs.

    Raises:
        ConfigError: If the site has not joined.
    """
    site = home.site()
    said = read(home)
    now_s = datetime.datetime.now().timestamp() if now_s is None else now_s
    gpus, problem = probe.nvidia_gpus()
    if said is None:
        said = {"site": site.id, "state": "stopped", "waits_for": "fl site run: no link runs in this home"}
    elif now_s - float(said["at_s"]) > STALE_S or not Path("/proc", str(said["pid"])).exists():
        said = {**said, "state": "stopped", "waits_for": "fl site run: the link ended"}
    return {**said, "gpus": gpus, "gpu_problem": problem}


def rows(said: Mapping[str, Any], now_s: float) -> list[tuple[str, str]]:
    """The lines of ``fl site status``."""
    found = [
        ("site", str(said["site"])),
        ("state", _state(said, now_s)),
        ("waits for", said.get("waits_for") or "nothing"),
    ]
    if said.get("message"):
        found.append(("the centre says", said["message"]))
    if said.get("clock"):
        found.append(("clock", said["clock"]))
    if said.get("last_contact_s"):
        found.append(("last contact", f"{human_seconds(max(0.0, now_s - said['last_contact_s']))} ago"))
    if said.get("certificate_ends_s"):
        found.append(("certificate", _days(said["certificate_ends_s"] - now_s)))
    if said.get("run_id"):
        found.append(("works on run", str(said["run_id"])))
    if outbox := said.get("outbox"):
        found.append(("outbox", f"{outbox['replies']} replies, {human_bytes(outbox['bytes'])}; {outbox['sent']} sent"))
        found += [("given up", words) for words in outbox["given_up"]]
    if today := said.get("today"):
        found.append(("today", f"{human_bytes(today['up_bytes'])} up, {human_bytes(today['down_bytes'])} down"))
        if said.get("bytes_left") is not None:
            found.append(("left today", human_bytes(said["bytes_left"])))
        if said.get("gpu_left_s") is not None:
            found.append(("GPU time left today", human_seconds(said["gpu_left_s"])))
    for it in said.get("refused", ()):
        found.append(("refused", f"{it['count']} × {it['reason']}"))
    found += [("GPU", _gpu(gpu)) for gpu in said["gpus"]] or [("GPU", f"none: {said['gpu_problem']}")]
    return found


def policy_rows(policy: Policy, usage: Usage, now: datetime.datetime) -> list[tuple[str, str]]:
    """The lines of ``fl site policy check``."""
    allow = policy.apps.allow
    found = [("apps", "any" if allow is None else "none" if not allow else f"{len(allow)} allowed")]
    found += [("", digest) for digest in allow or ()]
    for name in ("work", "transfer"):
        allowed = policy.hours.windows(name)
        is_open = windows.is_open(allowed, now)
        words = "at any hour" if not allowed else ", ".join(window.text for window in allowed)
        found.append((f"hours of {name}", words))
        if allowed:
            found.append(("", "open now" if is_open else f"closed now; opens {windows.opens_next(allowed, now)}"))
    limits = policy.limits
    for words, rate in (("upload", limits.upload_mbit_per_s), ("download", limits.download_mbit_per_s)):
        found.append((words, "as fast as the line" if rate is None else f"at most {rate:g} Mbit/s"))
    left = usage.bytes_left(now)
    per_day = limits.mib_per_day
    found.append(("a day's bytes", "no limit" if left is None else f"{per_day:g} MiB, {human_bytes(left)} left"))
    gpu_s, minutes = usage.gpu_left_s(now=now), limits.gpu_minutes_per_day
    words = "no limit" if gpu_s is None or minutes is None else f"{minutes:g} min, {human_seconds(gpu_s)} left"
    found.append(("a day's GPU time", words))
    floors = to_dict(policy.secagg)
    shown = ("required", "min_sites", "min_aggregate", "privacy_required")
    found.append(("secure aggregation", ", ".join(f"{key} = {str(floors[key]).lower()}" for key in shown)))
    return found


def _state(said: Mapping[str, Any], now_s: float) -> str:
    if said["state"] == "connected" and said.get("connected_since_s"):
        since = human_seconds(max(0.0, now_s - said["connected_since_s"]))
        return f"connected to {said['gateway']} for {since}"
    return str(said["state"])


def _days(left_s: float) -> str:
    if left_s < 0:
        return f"ran out {human_seconds(-left_s)} ago"
    return f"{left_s / 86_400:.1f} days left"


def _gpu(gpu: Mapping[str, Any]) -> str:
    used, total, busy = gpu["memory_used_mib"], gpu["memory_mib"], gpu["busy_percent"]
    return f"{gpu['name']}, {used} of {total} MiB used, {busy} % busy"
