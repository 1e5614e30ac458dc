"""Runs as OpenTelemetry traces: a run is a trace; its rounds are spans, with what each site and the server did in them.

Spans are drawn from the journal's lines when a thing is over. Their ids are digests of what they stand for, so a line
that is told again after a crash is the same span again. Where they go is said by OpenTelemetry's own environment
variables (https://opentelemetry.io/docs/specs/otel/protocol/exporter/); without an endpoint there is none of this.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from fl.errors import ConfigError
from fl.rounds import events
from fl.rounds.state import Record

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter

    from server.controller.ingest import Seen

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
NS_A_SECOND = 1_000_000_000

Attribute = str | int | float | bool


@dataclasses.dataclass(frozen=True, slots=True)
class Span:
    """Something that took time."""

    name: str
    key: str
    """Tells it from all others of its run; the run's own is empty."""
    parent: str | None
    """The key of what it was part of; ``None`` for the run."""
    start_s: float
    """Seconds since 1970."""
    end_s: float
    attributes: dict[str, Attribute]
    error: str = ""
    """Why it failed."""


def spans(run: str, project: str, records: Sequence[Record], seen: Seen) -> Iterator[Span]:
    """What these lines of a run's journal say is over."""
    for record in records:
        end_s, about = record.time.timestamp(), dict[str, Attribute]()
        match record.event:
            case events.UpdateLanded() as event:
                about = {"site": event.site, "attempt": event.attempt, "examples": event.num_examples}
                yield _part("train", record, event.round, event.waited_s, {**about, "bytes": event.size_bytes})
            case events.EvaluationLanded() as event:
                about = {"site": event.site, "examples": event.num_examples}
                yield _part("evaluate", record, event.round, event.waited_s, about)
            case events.ReplyFailed() as event:
                about = {"site": event.site, "attempt": event.attempt, "code": event.code}
                yield _part(event.phase, record, event.round, event.waited_s, about, event.reason)
            case events.StageClosed() as event:
                about = {"attempt": event.attempt, "sites": len(event.sites)}
                yield _part(f"secagg {event.stage}", record, event.round, event.waited_s, about)
            case events.SumLanded() as event:
                about = {"attempt": event.attempt, "survivors": len(event.survivors), "dropped": len(event.dropped)}
                yield _part("secagg sum", record, event.round, event.waited_s, about)
            case events.RoundCommitted() as event:
                about = {"round": event.round, "examples": event.num_examples, "model": event.model_digest}
                yield _part("fold", record, event.round, event.fold_s, {"examples": event.num_examples})
                start_s = seen.opened_s.get(event.round, end_s)
                yield Span(f"round {event.round}", _round(event.round), "", start_s, end_s, about)
            case events.RoundAbandoned() as event:
                about = {"attempt": event.attempt, "landed": event.landed, "quorum": event.quorum}
                start_s = seen.opened_s.get(event.round, end_s)
                yield _part("attempt", record, event.round, end_s - start_s, about, event.because)
            case events.RunEnded() as event:
                about = {"run": run, "project": project, "status": event.status}
                error = event.reason if event.status == "failed" else ""
                yield Span(f"run {run}", "", None, seen.created_s or end_s, end_s, about, error)


def _part(name: str, record: Record, number: int, took_s: float, about: dict[str, Attribute], error: str = "") -> Span:
    """A part of a round; its line was written when it was over."""
    end_s = record.time.timestamp()
    about = {"round": number, **about}
    return Span(name, f"{record.seq} {name}", _round(number), end_s - took_s, end_s, about, error)


def _round(number: int) -> str:
    return f"round {number}"


class Traces:
    """Sends spans in the background; a collector that is away costs spans, never a round.

    Args:
        exporter: Where they go; OTLP over HTTP, as the environment says, by default.
    """

    def __init__(self, exporter: SpanExporter | None = None) -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        if exporter is None:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

            exporter = OTLPSpanExporter()
        self._resource = Resource.create({"service.name": os.environ.get("OTEL_SERVICE_NAME", "fedfleet")})
        self._processor = BatchSpanProcessor(exporter)

    def send(self, run: str, project: str, records: Sequence[Record], seen: Seen) -> None:
        """Draw what these lines say and queue it; takes microseconds a line."""
        for span in spans(run, project, records, seen):
            self._processor.on_end(self._readable(run, span))

    def close(self) -> None:
        """Send what is queued, for a few seconds at the most."""
        self._processor.shutdown()  # type: ignore[no-untyped-call]

    def _readable(self, run: str, span: Span) -> ReadableSpan:
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.trace import SpanContext, Status, StatusCode, TraceFlags

        def context(key: str) -> SpanContext:
            trace_id, span_id = _number(16, run), _number(8, run, key)
            return SpanContext(trace_id, span_id, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))

        return ReadableSpan(
            span.name,
            context=context(span.key),
            parent=None if span.parent is None else context(span.parent),
            resource=self._resource,
            attributes={f"fl.{name}": value for name, value in span.attributes.items()},
            status=Status(StatusCode.ERROR, span.error) if span.error else Status(StatusCode.OK),
            start_time=int(span.start_s * NS_A_SECOND),
            end_time=int(span.end_s * NS_A_SECOND),
        )


def from_environment() -> Traces | None:
    """Traces, if the environment names where they go.

    Raises:
        ConfigError: If it does and the library is not installed.
    """
    named = next((name for name in ENDPOINTS if os.environ.get(name)), None)
    if named is None:
        return None
    try:
        return Traces()
    except ModuleNotFoundError as err:
        raise ConfigError(f"{named} is set, and {err.name} is not installed", hint="pip install '.[otel]'") from err


def _number(size: int, *parts: str) -> int:
    return int.from_bytes(hashlib.sha256("\0".join(parts).encode()).digest()[:size], "big")
