"""What a site's owner allows: ``policy.toml`` in the site's home, read by the link and by the runner.

The owner writes it, nobody else: the centre cannot change it, and is told only what was refused and why. It is read
again when it changes. If the site's home pins a key (``keys/policy.pub``), the file counts only with a signature
beside it (``policy.toml.sig``) that this key made, and a site without a valid one takes no work.
"""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from edge import windows
from fl.config import check_range, load, read_toml
from fl.errors import ConfigError, RefusedError
from fl.secagg.policy import SitePolicy
from fl.secagg.storage import read_public_key

FILE, SIGNATURE, PINNED = "policy.toml", ".sig", Path("keys", "policy.pub")
MIB = 1024 * 1024
_CONTEXT = b"fedfleet site policy v1\0"
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class AppsPolicy:
    """The ``[apps]`` table: which code may run here."""

    allow: tuple[str, ...] | None = None
    """SHA-256 of each app that may run, 64 hexadecimal digits; unset allows any, an empty list none."""

    def __post_init__(self) -> None:
        for number, digest in enumerate(self.allow or ()):
            if not _DIGEST.fullmatch(digest):
                raise ConfigError(
                    f"apps.allow[{number}] is {digest[:80]!r}, must be a SHA-256 in lower-case hexadecimal",
                    hint="the refusal of an app names its digest",
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class HoursPolicy:
    """The ``[hours]`` table: when."""

    time_zone: str = "UTC"
    """Zone of windows that name none, and of the day after which budgets start anew."""

    work: tuple[str, ...] = ()
    """Windows in which tasks may start, such as `Mon-Fri 18:00-07:00`; empty is always."""

    transfer: tuple[str, ...] = ()
    """Windows in which models and updates may travel, such as `Sat 01:00-05:00 Europe/Berlin`; empty is always."""

    def __post_init__(self) -> None:
        windows.find_zone(self.time_zone)
        for name in ("work", "transfer"):
            _ = self.windows(name)

    def windows(self, name: str) -> list[windows.Window]:
        """The windows of ``work`` or ``transfer``."""
        try:
            return [windows.parse(text, self.time_zone) for text in getattr(self, name)]
        except ConfigError as err:
            raise ConfigError(f"hours.{name}: {err.message}", hint=err.hint) from err


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitsPolicy:
    """The ``[limits]`` table: how much."""

    upload_mbit_per_s: float | None = None
    """Most that is sent, megabits a second; unset sets no limit."""

    download_mbit_per_s: float | None = None
    """Most that is received, megabits a second; unset sets no limit."""

    mib_per_day: float | None = None
    """Models and updates of a day, both ways together, in MiB; unset sets no limit."""

    gpu_minutes_per_day: float | None = None
    """Minutes of a day for which tasks may hold the GPU; unset sets no limit."""

    def __post_init__(self) -> None:
        check_range("limits.upload_mbit_per_s", self.upload_mbit_per_s, at_least=0.01)
        check_range("limits.download_mbit_per_s", self.download_mbit_per_s, at_least=0.01)
        check_range("limits.mib_per_day", self.mib_per_day, at_least=0)
        check_range("limits.gpu_minutes_per_day", self.gpu_minutes_per_day, at_least=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A policy file. What it does not name is allowed."""

    apps: AppsPolicy = field(default_factory=AppsPolicy)
    """Which code may run here."""

    hours: HoursPolicy = field(default_factory=HoursPolicy)
    """When tasks may start and data may travel."""

    limits: LimitsPolicy = field(default_factory=LimitsPolicy)
    """How much of the line and of the GPU."""

    secagg: SitePolicy = field(default_factory=SitePolicy)
    """The floors for privacy: the smallest cohort, and whether anything may leave in clear."""

    @classmethod
    def from_file(cls, path: Path) -> Policy:
        """The policy of a file, checked; the one that allows everything, if there is neither file nor pinned key.

        Raises:
            ConfigError: On an unknown key or a value out of its range.
            RefusedError: If a key is pinned beside it and the signature is missing or does not fit.
        """
        pinned = path.parent / PINNED
        if pinned.exists():
            check_signature(path, Ed25519PublicKey.from_public_bytes(read_public_key(str(pinned))))
        elif not path.exists():
            return cls()
        return load(cls, read_toml(path))


def check_app(policy: Policy, digest: str) -> None:
    """Refuse an app that the owner has not allowed.

    Args:
        policy: The owner's.
        digest: SHA-256 of the app's bundle (Flower's ``fab_hash``), in hexadecimal.

    Raises:
        RefusedError: Naming the digest and the key.
    """
    if policy.apps.allow is not None and digest not in policy.apps.allow:
        raise RefusedError(f"the app {digest or 'without a digest'} is not in apps.allow of this site's policy")


def check_work_hours(policy: Policy, now: datetime.datetime) -> None:
    """Refuse to start a task outside the owner's hours.

    Raises:
        RefusedError: Saying when they begin.
    """
    _check_hours(policy, "work", now)


def check_transfer_hours(policy: Policy, now: datetime.datetime) -> None:
    """Refuse to begin what will need a transfer outside the owner's hours.

    Raises:
        RefusedError: Saying when they begin.
    """
    _check_hours(policy, "transfer", now)


def _check_hours(policy: Policy, name: str, now: datetime.datetime) -> None:
    allowed = policy.hours.windows(name)
    if not windows.is_open(allowed, now):
        raise RefusedError(
            f"outside hours.{name} of this site's policy; the next begin {windows.opens_next(allowed, now)}"
        )


def sign(path: Path, key: object) -> Path:
    """Write the signature of a policy file beside it.

    Args:
        path: The policy file.
        key: The owner's private key, Ed25519.

    Raises:
        ConfigError: If the file cannot be used.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from fl.files import write_atomic

    assert isinstance(key, Ed25519PrivateKey)
    load(Policy, read_toml(path))
    beside = path.with_name(path.name + SIGNATURE)
    write_atomic(beside, key.sign(_CONTEXT + path.read_bytes()).hex() + "\n")
    return beside


def check_signature(path: Path, key: Ed25519PublicKey) -> None:
    """Check that the owner's key signed the policy file as it is.

    Raises:
        RefusedError: If it did not.
    """
    beside = path.with_name(path.name + SIGNATURE)
    hint = f"the owner signs it: fl site policy sign {path} --key FILE"
    try:
        key.verify(bytes.fromhex(beside.read_text(encoding="ascii").strip()), _CONTEXT + path.read_bytes())
    except FileNotFoundError as err:
        raise RefusedError(
            f"no such file: {err.filename}, and this site takes a signed policy only", hint=hint
        ) from err
    except (InvalidSignature, ValueError) as err:
        raise RefusedError(f"{beside} is no signature of {path.name} by the pinned key", hint=hint) from err
