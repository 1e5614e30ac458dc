"""The centre as its chart runs it: the commands of the rendered pod, with its rendered server.toml, run here."""

import os
import signal
import ssl
import subprocess
import time
import urllib.error
import urllib.request

import pytest

from fl import ports, processes
from tests.helm.charts import NEWEST, manifests, only

pytestmark = [pytest.mark.federation, pytest.mark.timeout(300)]
HOME = "/var/lib/fedfleet/server"


def answers(url):
    """Status of a GET, whatever it is; 0 while nobody answers."""
    unchecked = ssl._create_unverified_context()
    try:
        with urllib.request.urlopen(url, timeout=10, context=unchecked if url.startswith("https") else None) as found:
            return found.status
    except urllib.error.HTTPError as err:
        return err.code
    except OSError:
        return 0


class Pod:
    """The containers of the rendered pod as processes: same arguments, other paths and ports."""

    def __init__(self, directory):
        self.directory = directory
        self.ports = {name: ports.free_port() for name in ("8443", "8081", "8444")}
        self.env = processes.environment(home=directory / "flower")

    def deployment(self, *options):
        return only(self.documents(*options), "Deployment")["spec"]["template"]["spec"]

    def documents(self, *options):
        return manifests("fl-server", "minimal", NEWEST, "--set", "listen=127.0.0.1", *options)

    def argv(self, container):
        words = [word.replace(HOME, str(self.directory / "home")) for word in container["command"]]
        words = [word.replace("/etc/fedfleet/server", str(self.directory)) for word in words]
        return [processes.program("fl"), *words[1:]]

    def prepare(self, *options):
        config = only(self.documents(*options), "ConfigMap", "fl-server")["data"]["server.toml"]
        for name, port in self.ports.items():
            config = config.replace(f"127.0.0.1:{name}", f"127.0.0.1:{port}")
        (self.directory / "server.toml").write_text(config)
        (init,) = self.deployment(*options)["initContainers"]
        return subprocess.run(self.argv(init), env=self.env, capture_output=True, text=True)

    def start(self):
        (server,) = self.deployment()["containers"]
        return subprocess.Popen(self.argv(server), env=self.env), server

    def url(self, probe):
        port = {"health": self.ports["8081"]}[probe["httpGet"]["port"]]
        return f"http://127.0.0.1:{port}{probe['httpGet']['path']}"


def until(condition, within_s, process):
    deadline = time.monotonic() + within_s
    while not condition():
        assert process.poll() is None, "the centre ended"
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.2)


def test_the_pod_of_the_chart_becomes_ready_and_ends_politely(tmp_path):
    pod = Pod(tmp_path)
    done = pod.prepare()
    assert done.returncode == 0, done.stderr
    assert "made a centre's home" in done.stderr
    process, container = pod.start()
    try:
        until(lambda: answers(pod.url(container["startupProbe"])) == 200, 200, process)
        until(lambda: answers(pod.url(container["readinessProbe"])) == 200, 100, process)
        assert answers(pod.url(container["livenessProbe"])) == 200
        until(lambda: answers(f"https://127.0.0.1:{pod.ports['8444']}/healthz") == 200, 60, process)
    finally:
        process.send_signal(signal.SIGTERM)
        ended = process.wait(timeout=60)  # terminationGracePeriodSeconds
    assert ended == 0


def test_another_setting_arrives_and_a_wrong_one_changes_nothing(tmp_path):
    pod = Pod(tmp_path)
    assert pod.prepare().returncode == 0
    key = next((tmp_path / "home" / "ca").rglob("*.key")).read_bytes()
    assert pod.prepare("--set", "enrolment.approval=automatic").returncode == 0
    written = (tmp_path / "home" / "server.toml").read_text()
    assert 'approval = "automatic"' in written
    # The home is the one that it was, with its keys.
    assert next((tmp_path / "home" / "ca").rglob("*.key")).read_bytes() == key
    refused = pod.prepare("--set", "settings.gateway.hold_s=99")
    assert refused.returncode == 2
    assert "gateway.hold_s" in refused.stderr
    assert (tmp_path / "home" / "server.toml").read_text() == written
    assert os.stat(tmp_path / "home").st_mode & 0o077 == 0
