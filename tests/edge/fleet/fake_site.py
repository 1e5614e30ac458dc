"""A site that exists only in memory, for hundreds of them at once: it answers the fleet's commands, fails, goes silent.

``python tests/edge/fleet/fake_site.py SOCKET`` is the fleet's worker over such sites: pyinfra's ``@fake`` connector,
with the answers from here. What a site is like stands in ``host.data.fake``; what was done to it in a file of its own.
"""

import base64
import json
import os
import re
import shlex
import signal
import sys
from pathlib import Path

KINDS = {"namespace": "Namespace", "secret": "Secret", "configmap": "ConfigMap", "runtimeclass": "RuntimeClass"}
OS = 'ID=debian\nVERSION_ID="12"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n6.1.0-18-amd64 x86_64'


class FakeSite:
    """One site.

    ``nature``: ``unreachable``, ``unreachable_at`` (a piece of a command at which the connection is lost, once),
    ``fails`` (error by piece of command), ``sick`` (digest whose pods do not become ready), ``restarts`` (digest whose
    pods are started again and again), ``no_sudo``, ``wrong_key``.
    """

    def __init__(self, name, nature, directory):
        self.name, self.nature, self.path = name, nature, Path(directory) / f"{name}.json"
        self.state = {
            "k3s": None, "active": False, "files": {}, "blobs": {}, "images": {}, "installed": [], "helm": None,
            "revisions": [], "objects": [], "lost": [], "log": [], "looks": 0, "asked": 0,
        }  # fmt: skip
        if self.path.exists():
            self.state = json.loads(self.path.read_text())

    @property
    def is_reachable(self):
        return not (self.nature.get("unreachable") or (self.path.parent / f"{self.name}.cut").exists())

    def is_up(self, line):
        """Whether the cluster answers; one that was there before always does."""
        return self.state["active"] or line.startswith("kubectl ")

    def run(self, command, stdin=None):
        """Whether a command succeeded, and what it printed."""
        if self.nature.get("dies"):
            os._exit(7)
        self.state["asked"] += 1
        if found := re.match(r"printf '\\n%s\\n' '(--[0-9a-f]{16}--)'; ", command):
            pieces = re.findall(rf"'{found[1]}'; \( (.*?)\n\) 2>/dev/null </dev/null", command, re.DOTALL)
            lines = []
            for piece in pieces:
                lines += [found[1], *self.ask(piece)]
            return True, lines
        words = shlex.split(command)
        line = words[-1] if words[:2] == ["timeout", "-k"] else command
        for piece in self.nature.get("unreachable_at", []):
            if piece in line and piece not in self.state["lost"]:
                self.state["lost"].append(piece)
                self.save()
                raise TimeoutError
        for piece, error in self.nature.get("fails", {}).items():
            if piece in line:
                return False, [error]
        answer = self.ask(line) or self.change(line, stdin)
        return True, answer

    def save(self):
        """Kept for the next worker; the centre sees a release at once, the rest when this worker ends."""
        self.path.write_text(json.dumps(self.state))

    def ask(self, line):
        """What is printed by a command that changes nothing."""
        state = self.state
        if "/etc/os-release" in line:
            return OS.split("\n")
        if line.startswith("stat -fc"):
            return ["cgroup2fs"]
        if "df -Pk" in line:
            return ["Filesystem 1024-blocks Used Available Capacity Mounted on", "/dev/sda1 99999999 1 88888888 1% /"]
        if "/proc/meminfo" in line:
            return ["MemTotal:       16384000 kB", "MemAvailable:    8192000 kB"]
        if "INSTALLED" in line or line.startswith("ls /var/lib/fedfleet/installed"):
            return state["installed"]
        if line.startswith("cd /var/lib/fedfleet/blobs 2>"):
            return [f"{name} {size}" for name, size in state["blobs"].items()]
        if line.startswith("helm version"):
            return [state["helm"]] if state["helm"] else []
        if " images ls" in line:
            rows = [f"{name} type {digest} 1.0 MiB linux/amd64 -" for name, digest in state["images"].items()]
            return ["REF TYPE DIGEST SIZE PLATFORMS LABELS", *rows]
        if found := re.match(r"if \[ -e (\S+) \]; then sha256sum", line):
            digest = state["files"].get(found[1])
            return [f"{digest[0]}  {found[1]}", f"{digest[1]} root"] if digest else []
        if line.startswith("command -v k3s"):
            if not state["k3s"]:
                return []
            return [f"k3s version {state['k3s']} (abc)", f"k3s {'active' if state['active'] else 'inactive'}"]
        if " get nodes -o json" in line:
            return [json.dumps({"kind": "List", "items": [_node(self.name)]})] if self.is_up(line) else []
        if " get pods " in line:
            return [json.dumps({"kind": "List", "items": self.pods()})] if self.is_up(line) else []
        if found := re.search(r" get -n (\S+) (.*) --ignore-not-found", line):
            items = [_object(*name.split("/")) for name in found[2].split() if name in state["objects"]]
            return [json.dumps({"kind": "List", "items": items})] if items else []
        if " history " in line:
            entries = [{**entry, "updated": "", "chart": "fl-site-1.0.0"} for entry in state["revisions"]]
            return [json.dumps(entries)] if entries and "fl-site" in line else []
        return []

    def change(self, line, stdin):
        """What a command does that changes something."""
        state = self.state
        state["log"].append(line)
        for part in re.findall(r"touch /var/lib/fedfleet/installed/(\S+)", line):
            state["installed"] = sorted({*state["installed"], part})
        if found := re.search(r"cat > \S+ && chmod (\d+) .* && mv \S+ (\S+)$", line):
            state["files"][found[2]] = [_sha(stdin), found[1]]
        elif "sysctl -q -p" in line and "cat >" in line:
            state["files"]["/etc/sysctl.d/90-kubelet.conf"] = [_sha(stdin), "644"]
        elif found := re.search(r"INSTALL_K3S_EXEC=(\w+)", line):
            state["k3s"], state["active"] = "v1.34.1+k3s1", False
        elif "systemctl restart k3s" in line:
            state["active"] = True
            state["files"]["/var/lib/fedfleet/k3s-applied"] = [_sha(stdin), "644"]
        elif "/usr/local/bin/helm" in line:
            state["helm"] = "v4.1.4"
        elif found := re.search(
            r"/var/lib/rancher/k3s/agent/images && cp /var/lib/fedfleet/blobs/(\S+) (\S+).part", line
        ):
            state["files"][found[2]] = [found[1], "644"]
        elif "images import -" in line:
            for entry in json.loads(stdin)["manifests"]:
                state["images"][entry["annotations"]["io.containerd.image.name"]] = entry["digest"]
        elif found := re.search(r"= ([0-9a-f]{64}) \] && sync", line):
            state["blobs"][found[1]] = state["blobs"].pop(f"{found[1]}.part")
        elif line.startswith("cd /var/lib/fedfleet/blobs && rm"):
            for name in line.split("-- ")[1].split():
                state["blobs"].pop(name)
        elif " apply -f -" in line:
            document = json.loads(stdin)
            state["objects"].append(f"{document['kind'].lower()}/{document['metadata']['name']}")
        elif found := re.search(r"create secret generic (\S+)", line):
            state["objects"].append(f"secret/{found[1]}")
        elif found := re.search(r"create configmap (\S+)", line):
            state["objects"].append(f"configmap/{found[1]}")
        elif found := re.search(r" delete (secret/\S+) ", line):
            state["objects"].remove(found[1])
        elif found := re.search(r"upgrade --install .*--description '(.*)'", line):
            self.revise(found[1])
            if "secret/fl-site-join" in state["objects"]:
                state["objects"].append("secret/fl-site-identity")  # the site joins
        elif found := re.search(r" rollback \S+ -n \S+ (\d+)", line):
            self.revise(f"Rollback to {found[1]}")
        elif " uninstall " in line:
            state["revisions"] = []
        elif found := re.match(r"echo (\S+) \| base64 -d > (\S+)$", line):
            self.put(found[2], len(base64.b64decode(found[1])))
        elif "stat -c %s" in line:
            return ["0", "0"]
        if " upgrade " in line or " rollback " in line or " uninstall " in line:
            self.save()
        return []

    def revise(self, description):
        for entry in self.state["revisions"]:
            entry["status"] = "superseded" if entry["status"] == "deployed" else entry["status"]
        number = len(self.state["revisions"]) + 1
        entry = {"revision": number, "status": "deployed", "app_version": "0.3.1", "description": description}
        self.state["revisions"].append(entry)

    def put(self, name, size):
        self.state["blobs"][Path(name).name] = size

    def pods(self):
        """One pod a release; its name changes with the revision."""
        state = self.state
        if not state["revisions"]:
            return []
        digest = self.digest_of(state["revisions"][-1])
        state["looks"] += 1
        ready = digest != self.nature.get("sick")
        count = state["looks"] if digest == self.nature.get("restarts") else 0
        return [_pod(f"fl-site-{state['revisions'][-1]['revision']}", ready, count)]

    def digest_of(self, entry):
        if found := re.search(r"Rollback to (\d+)", entry["description"]):
            return self.digest_of(self.state["revisions"][int(found[1]) - 1])
        return entry["description"].removeprefix("fedfleet ")


def _sha(text):
    import hashlib

    return hashlib.sha256(text.encode()).hexdigest()


def _node(name):
    conditions = [{"type": "Ready", "status": "True"}]
    return {
        "metadata": {"name": name},
        "status": {"conditions": conditions, "nodeInfo": {"kubeletVersion": "v1.34.1+k3s1"}, "allocatable": {}},
    }


def _object(kind, name):
    held = {"data": {"some": ""}} if kind == "secret" else {}
    return {"kind": KINDS[kind], "metadata": {"name": name}} | held


def _pod(name, ready, restarts):
    waiting = {"waiting": {"reason": "CrashLoopBackOff"}}
    status = {
        "phase": "Running",
        "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
        "containerStatuses": [{"restartCount": restarts, "state": {} if ready else waiting, "imageID": "x@sha256:1"}],
    }
    return {"metadata": {"name": name}, "status": status}


def main(socket_path):
    """The fleet's own worker, with these sites under it."""
    from pyinfra.api.exceptions import ConnectError
    from pyinfra.connectors import fake
    from pyinfra.connectors.util import CommandOutput, OutputLine

    from edge.fleet import worker  # patches the standard library first

    sites = {}

    def site_of(connector):
        data = connector.host.data
        name = data.fedfleet_site
        if name not in sites:
            sites[name] = FakeSite(name, data.fake, data.fake_directory)
        return sites[name]

    class Connector(fake.FakeConnector):
        def connect(self):
            site = site_of(self)
            if site.nature.get("wrong_key"):
                raise ConnectError("SSH host key error (Host key does not match.)")
            if not site.is_reachable:
                raise ConnectError("Could not connect (timed out)")

        def run_shell_command(self, command, print_output=False, print_input=False, **arguments):
            site = site_of(self)
            if not site.is_reachable:
                raise TimeoutError
            text = command if isinstance(command, str) else command.get_raw_value()
            if text == "sudo -n true" and site.nature.get("no_sudo"):
                return False, CommandOutput([OutputLine("stderr", "sudo: a password is required")])
            if text in ("true", "sudo -n true"):
                lost = site.state["lost"] and not site.state.get("back")
                if lost and text == "true":
                    site.state["back"] = True
                    raise TimeoutError
                return True, CommandOutput([])
            ok, lines = site.run(text, arguments.get("_stdin"))
            return ok, CommandOutput([OutputLine("stdout" if ok else "stderr", line) for line in lines])

        def put_file(self, filename_or_io, remote_filename, *args, **arguments):
            site_of(self).put(remote_filename, Path(filename_or_io).stat().st_size)
            return True

    def save(*_):
        for site in sites.values():
            site.save()
        os._exit(0)

    signal.signal(signal.SIGTERM, save)
    fake.FakeConnector.connect = Connector.connect
    fake.FakeConnector.run_shell_command = Connector.run_shell_command
    fake.FakeConnector.put_file = Connector.put_file
    worker.main(socket_path)
    save()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[3]))
    main(sys.argv[1])
