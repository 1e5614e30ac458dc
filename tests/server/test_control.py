import http.server
import ssl
import threading

import pytest
from flwr.proto.control_pb2 import ListNodesResponse, ListRunsResponse, StartRunResponse, StreamLogsResponse
from flwr.proto.node_pb2 import NodeInfo
from flwr.proto.run_pb2 import Run, RunStatus
from flwr.proto.transport_pb2 import Scalar

from fl import ports
from fl.errors import FLError, InputError, UnreachableError
from server import certificates, superlink
from server.control import Control


class SuperLinkSimulator:
    """Answers as the SuperLink does, over TLS on this computer, with what a test tells it to say."""

    def __init__(self, files):
        self.answers = {}
        self.asked = []
        simulator = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def answer(self):
                simulator.asked.append((self.path, self.rfile.read(int(self.headers["content-length"] or 0))))
                status, body, kind = simulator.answers.get(self.path, (404, b"", "text/plain"))
                self.send_response(status)
                self.send_header("content-type", kind)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_GET = answer

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(files.certificate, files.key)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    @property
    def port(self):
        return self.server.server_address[1]

    def say(self, verb, message):
        self.answers[f"/v1/control/{verb}"] = (200, message.SerializeToString(), "application/protobuf")

    def fail(self, verb, status, body):
        self.answers[f"/v1/control/{verb}"] = (status, body.encode(), "application/json")

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def files(tmp_path):
    return certificates.create(tmp_path / "keys")


@pytest.fixture
def simulator(files):
    simulator = SuperLinkSimulator(files)
    yield simulator
    simulator.close()


@pytest.fixture
def control(simulator, files):
    with Control(f"127.0.0.1:{simulator.port}", files.ca) as control:
        yield control


def test_nodes_come_by_name_and_without_those_that_left(simulator, control):
    nodes = [
        NodeInfo(node_id=2, name="b", status="online"),
        NodeInfo(node_id=1, name="a", status="offline"),
        NodeInfo(node_id=3, name="c", status="unregistered"),
    ]
    simulator.say("list-nodes", ListNodesResponse(nodes_info=nodes))
    assert [(node.node_id, node.name, node.status) for node in control.nodes()] == [
        (1, "a", "offline"),
        (2, "b", "online"),
    ]


def test_runs_come_newest_first_with_their_config_and_state(simulator, control):
    old = Run(run_id=1, fab_id="a/b", pending_at="2026-01-01T00:00:00", status=RunStatus(status="running"))
    new = Run(
        run_id=2**63 + 1,
        pending_at="2026-01-02T00:00:00",
        status=RunStatus(status="finished", sub_status="failed", details="no luck"),
        override_config={"journal": Scalar(string="/j")},
    )
    simulator.say("list-runs", ListRunsResponse(run_dict={1: old, 2**63 + 1: new}))
    first, second = control.runs()
    assert (first.run_id, first.state, first.details, first.is_finished) == (2**63 + 1, "failed", "no luck", True)
    assert first.config == {"journal": "/j"}
    assert (second.run_id, second.state, second.is_finished) == (1, "running", False)


def test_a_submitted_app_travels_with_its_changes(simulator, control):
    simulator.say("start-run", StartRunResponse(run_id=7))
    assert control.start_run(b"the bundle", {"rounds": 3}) == 7
    path, body = simulator.asked[-1]
    assert path == "/v1/control/start-run"
    assert b"the bundle" in body
    assert b"rounds" in body


def test_an_app_that_is_refused_without_a_word_is_an_error(simulator, control):
    simulator.say("start-run", StartRunResponse())
    with pytest.raises(InputError, match="refused the app"):
        control.start_run(b"", {})


def test_a_log_comes_in_pieces_with_the_time_to_continue_from(simulator, control):
    pieces = [StreamLogsResponse(log_output=text, latest_timestamp=time) for text, time in (("a\n", 1.5), ("b\n", 2.5))]
    frames = [message.SerializeToString() for message in pieces]
    body = b"".join(len(frame).to_bytes(4, "big") + frame for frame in frames)
    simulator.answers["/v1/control/stream-logs"] = (200, body, "application/protobuf-stream")
    assert list(control.log(1)) == [("a\n", 1.5), ("b\n", 2.5)]


def test_a_refusal_is_passed_on_in_flowers_words(simulator, control):
    simulator.fail("stop-run", 404, '{"code": 12, "detail": "Run not found.", "extra": "It is gone."}')
    with pytest.raises(InputError) as caught:
        control.stop(5)
    assert caught.value.message == "cannot stop run 5: run not found. It is gone"


def test_a_failure_of_the_superlink_is_not_the_users_fault(simulator, control):
    simulator.fail("list-nodes", 500, "database is locked")
    with pytest.raises(FLError, match="cannot list nodes: the SuperLink failed with status 500") as caught:
        control.nodes()
    assert not isinstance(caught.value, InputError)


def test_nobody_there_is_unreachable(files):
    with Control(f"127.0.0.1:{ports.free_port()}", files.ca) as control, pytest.raises(UnreachableError) as caught:
        control.nodes()
    assert "no SuperLink answers at 127.0.0.1:" in caught.value.message
    assert "fl up" in caught.value.hint


def test_a_server_of_another_authority_is_not_talked_to(simulator, tmp_path):
    other = certificates.create(tmp_path / "other")
    with Control(f"127.0.0.1:{simulator.port}", other.ca) as control, pytest.raises(UnreachableError):
        control.nodes()
    assert simulator.asked == []


def test_a_missing_authority_is_named(tmp_path):
    with pytest.raises(UnreachableError, match=r"cannot read .*ca\.crt"):
        Control("127.0.0.1:9", tmp_path / "ca.crt")


def test_health_is_an_answer_of_the_right_server(simulator, files, tmp_path):
    assert not superlink.is_healthy(simulator.port, files.ca)
    simulator.answers["/health"] = (200, b"", "text/plain")
    assert superlink.is_healthy(simulator.port, files.ca)
    assert not superlink.is_healthy(simulator.port, certificates.create(tmp_path / "other").ca)
    assert not superlink.is_healthy(ports.free_port(), files.ca)


def test_a_proxy_is_not_asked_for_this_machine(simulator, files, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("no_proxy", "")
    simulator.say("list-nodes", ListNodesResponse())
    with Control(f"127.0.0.1:{simulator.port}", files.ca) as control:
        assert control.nodes() == []
