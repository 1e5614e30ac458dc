"""What goes wrong between a client and the control room, as the errors that the server meant."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import httpx
from pydantic import ValidationError

import fl.errors
from fl.errors import BusyError, ConfigError, FLError, InputError, RefusedError, StorageError, UnreachableError

BY_STATUS: dict[int, type[FLError]] = {
    401: RefusedError,
    403: RefusedError,
    404: ConfigError,
    409: BusyError,
    422: InputError,
    429: RefusedError,
    503: StorageError,
}
"""For what no error of ours is named in the answer."""


@contextlib.contextmanager
def errors_of(url: str) -> Iterator[None]:
    """Turn what a connection raises into our errors.

    Raises:
        UnreachableError: If the control room does not answer, or answers what this release does not know.
    """
    try:
        yield
    except httpx.HTTPError as err:
        words = str(err) or type(err).__name__
        hint = None
        if "CERTIFICATE_VERIFY_FAILED" in words:
            hint = "--ca names the authority's certificate: authorities.pem in gateway/ of the server's home"
        raise UnreachableError(f"the control room at {url} does not answer: {words}", hint=hint) from err
    except ValidationError as err:
        hint = "use the same release of fedfleet at both ends"
        raise UnreachableError(f"{url} answered what this fl does not know", hint=hint) from err


def refusal(url: str, answer: httpx.Response) -> FLError:
    """The error that an answer stands for, which was read to its end."""
    try:
        facts = answer.json()
    except ValueError:
        facts = {}
    if not isinstance(facts, dict) or "detail" not in facts:
        words = f"{url} answered {answer.status_code}, and not as a control room"
        return UnreachableError(words, hint="is --server right?")
    kind = getattr(fl.errors, str(facts.get("title")), None)
    if not (isinstance(kind, type) and issubclass(kind, FLError)):
        kind = BY_STATUS.get(answer.status_code, FLError)
    hint = facts.get("hint")
    return kind(str(facts["detail"]), hint=str(hint) if hint else None)
