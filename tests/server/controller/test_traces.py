"""Traces: a real collector's port takes what the journal says, as OTLP over HTTP."""

import http.server
import sys
import threading

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from fl.errors import ConfigError
from fl.rounds.journal import Reader
from server.controller import traces
from server.controller.ingest import Seen
from tests.server.controller.test_ingest import a_journal


@pytest.fixture
def collector(monkeypatch):
    """Where the environment sends spans; those that came."""
    came = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            assert self.path == "/v1/traces"
            for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                for scope in of_resource.scope_spans:
                    came.extend(scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield came
    server.shutdown()
    thread.join()
    server.server_close()


def lines(folder):
    records, seen = list(Reader(a_journal(folder)).more()), Seen()
    for record in records:
        seen.take(record)
    return records, seen


def test_a_run_arrives_as_one_trace_whose_rounds_hold_what_sites_and_server_did(tmp_path, collector):
    records, seen = lines(tmp_path)
    tracing = traces.from_environment()
    tracing.send("trial", "default", records[:40], seen)
    tracing.send("trial", "default", records[40:], seen)
    tracing.close()
    assert len({span.trace_id for span in collector}) == 1
    by_id = {span.span_id: span for span in collector}
    (root,) = [span for span in collector if not span.parent_span_id]
    assert root.name == "run trial"
    rounds = [span for span in collector if span.name.startswith("round ")]
    assert sorted(span.name for span in rounds) == [f"round {number}" for number in range(1, 7)]
    assert {span.parent_span_id for span in rounds} == {root.span_id}
    landed = [record.event for record in records if record.event.kind == "update_landed"]
    trained = [span for span in collector if span.name == "train" and span.status.code != 2]
    assert len(trained) == len(landed)
    for span in collector:
        if span.name in ("train", "fold", "attempt"):
            number = next(one.value.int_value for one in span.attributes if one.key == "fl.round")
            assert by_id[span.parent_span_id].name == f"round {number}"
        assert root.start_time_unix_nano - 10**9 <= span.start_time_unix_nano <= span.end_time_unix_nano
    waited_s = [round((span.end_time_unix_nano - span.start_time_unix_nano) / 1e9, 4) for span in trained]
    assert waited_s == [pytest.approx(event.waited_s, abs=1e-3) for event in landed]
    failed = [span for span in collector if span.name == "train" and span.status.code == 2]
    assert {span.status.message for span in failed} == {"no GPU"}


def test_lines_that_are_told_again_are_the_same_spans(tmp_path):
    records, seen = lines(tmp_path)
    assert list(traces.spans("a", "", records, seen)) == list(traces.spans("a", "", records, seen))
    keys = [span.key for span in traces.spans("a", "", records, seen)]
    assert len(set(keys)) == len(keys)


def test_a_collector_that_is_away_costs_spans_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    records, seen = lines(tmp_path)
    tracing = traces.from_environment()
    tracing.send("trial", "default", records, seen)
    tracing.close()


def test_without_an_endpoint_there_is_nothing_and_without_the_library_a_hint(monkeypatch):
    for name in traces.ENDPOINTS:
        monkeypatch.delenv(name, raising=False)
    assert traces.from_environment() is None
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(ConfigError) as raised:
        traces.from_environment()
    assert "otel" in raised.value.hint
