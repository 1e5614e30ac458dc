#!/usr/bin/python3
"""Stands in for k3s, helm, snap, microk8s, systemctl, sysctl and journalctl on a test host: records what it is asked.

The name by which it is called says which program it is. It keeps just enough state to be asked twice, and it is slow or
sick where ``nature.json`` says so. Nothing here proves that the real programs would do the same.
"""

import fcntl
import json
import os
import re
import sys
import time

HOME = "/var/lib/recorder"
PRIVATE = {"state": None}


def main():
    os.makedirs(HOME, exist_ok=True)
    program, words = os.path.basename(sys.argv[0]), sys.argv[1:]
    with open(f"{HOME}/lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with open(f"{HOME}/log", "a") as log:
            log.write(json.dumps([program, *words]) + "\n")
    programs = {"k3s": k3s, "helm": helm, "snap": snap, "microk8s": microk8s, "systemctl": systemctl, "ctr": ctr}
    handler = programs.get(program, existing if program == "kubectl" else None)
    if program == "sysctl" and "=" not in " ".join(words) and "-p" not in words:
        print("\n".join(f"{word} = 0" for word in words))
    return handler(words) if handler else 0


def load():
    try:
        with open(f"{HOME}/state.json") as file:
            return json.load(file)
    except FileNotFoundError:
        return {"active": [], "images": {}, "revisions": {}, "objects": {}, "snaps": {}, "addons": []}


def save(state):
    with open(f"{HOME}/state.json.new", "w") as file:
        json.dump(state, file)
    os.replace(f"{HOME}/state.json.new", f"{HOME}/state.json")


def nature(key, default=None):
    try:
        with open(f"{HOME}/nature.json") as file:
            return json.load(file).get(key, default)
    except FileNotFoundError:
        return default


def systemctl(words):
    state = load()
    units = [word for word in words[1:] if not word.startswith("-")]
    if words[0] == "is-active":
        print("\n".join("active" if unit in state["active"] else "inactive" for unit in units))
        return 0 if set(units) <= set(state["active"]) else 3
    if words[0] in ("restart", "start"):
        state["active"] = sorted({*state["active"], *units})
    if words[0] == "stop":
        state["active"] = [unit for unit in state["active"] if unit not in units]
    save(state)
    return 0


def k3s(words):
    if words == ["--version"]:
        print("k3s version v1.34.1+k3s1 (24fc436e)\ngo version go1.24.6")
        return 0
    if words[0] == "kubectl":
        return kubectl(words[1:], "k3s" in load()["active"])
    return ctr(words[1:])


def existing(words):
    return kubectl(words[2:], True)  # --kubeconfig FILE


def kubectl(words, is_up):
    if not is_up:
        print("The connection to the server 127.0.0.1:6443 was refused", file=sys.stderr)
        return 1
    state, line = load(), " ".join(words)
    if "get nodes" in line:
        status = {"conditions": [{"type": "Ready", "status": "True"}], "nodeInfo": {"kubeletVersion": "v1.34.1+k3s1"}}
        items({"kind": "Node", "metadata": {"name": "edge"}, "status": status})
    elif "get pods" in line and "-o json" in line:
        revisions = state["revisions"].get("fl-site", [])
        items(*([pod(revisions[-1]["revision"], digest(revisions) != nature("sick"))] if revisions else []))
    elif "--ignore-not-found" in line and " get " in f" {line}":
        names = [word for word in words if re.fullmatch(r"[a-z]+/[a-z0-9-]+", word)]
        items(*(state["objects"][name] for name in names if name in state["objects"]))
    elif "apply -f -" in line:
        document = json.load(sys.stdin)
        state["objects"][f"{document['kind'].lower()}/{document['metadata']['name']}"] = document
        save(state)
    elif "create" in words:
        kind = words[words.index("create") + 1]
        name = words[words.index("create") + (3 if kind == "secret" else 2)]
        with open("/dev/stdin") as file:
            content = file.read()
        with open(f"{HOME}/secret", "w") as file:
            file.write(content)
        made = {"kind": kind.capitalize(), "metadata": {"name": name}}
        state["objects"][f"{kind}/{name}"] = made | ({"data": {"token": ""}} if kind == "secret" else {})
        save(state)
    elif "delete" in words:
        rest = [word for word in words[words.index("delete") + 1 :] if not word.startswith("-")]
        name = rest[0] if "/" in rest[0] else "/".join(rest[:2])
        state["objects"].pop(name, None)
        save(state)
    return 0


def items(*found):
    print(json.dumps({"kind": "List", "items": list(found)}))


def pod(revision, is_ready):
    waiting = {"waiting": {"reason": "CrashLoopBackOff"}}
    container = {"restartCount": 0, "state": {} if is_ready else waiting, "imageID": "x@sha256:1"}
    conditions = [{"type": "Ready", "status": "True" if is_ready else "False"}]
    status = {"phase": "Running", "conditions": conditions, "containerStatuses": [container]}
    return {"kind": "Pod", "metadata": {"name": f"fl-site-{revision}"}, "status": status}


def ctr(words):
    words = words[2:]  # -n k8s.io
    state = load()
    if words[:2] == ["images", "ls"]:
        print("REF TYPE DIGEST SIZE PLATFORMS LABELS")
        for name, found in state["images"].items():
            print(f"{name} application/vnd.oci.image.manifest.v1+json {found} 1.0 MiB linux/amd64 -")
    elif words[:2] == ["images", "import"]:
        import io
        import tarfile

        with tarfile.open(fileobj=io.BytesIO(sys.stdin.buffer.read())) as archive:
            names = set(archive.getnames())
            index = json.load(archive.extractfile("./index.json"))
            entry = index["manifests"][0]
            manifest = json.load(archive.extractfile(f"./blobs/sha256/{entry['digest'][7:]}"))
            for layer in [*manifest["layers"], manifest["config"]]:
                if f"./blobs/sha256/{layer['digest'][7:]}" not in names:
                    print(f"content {layer['digest']} not found", file=sys.stderr)
                    return 1
        for entry in index["manifests"]:
            state["images"][entry["annotations"]["io.containerd.image.name"]] = entry["digest"]
        save(state)
    return 0


def helm(words):
    if words[0] == "version":
        print("v4.1.4")
        return 0
    words = words[2:]  # --kubeconfig FILE
    state = load()
    plain = [word for word in words if not word.startswith("-")]
    name = plain[1]
    revisions = state["revisions"].setdefault(name, [])
    if words[0] == "history":
        if not revisions:
            print("Error: release: not found", file=sys.stderr)
            return 1
        print(json.dumps(revisions))
    elif words[0] == "upgrade":
        with open(words[words.index("-f") + 1]) as file:
            values = file.read()
        description = words[words.index("--description") + 1]
        revise(state, name, "pending-upgrade" if revisions else "pending-install", description)
        time.sleep(nature("helm_s", 0))
        if nature("helm_fails"):
            state["revisions"][name][-1]["status"] = "failed"
            save(state)
            print("Error: UPGRADE FAILED: context deadline exceeded", file=sys.stderr)
            return 1
        state = load()
        for entry in state["revisions"][name][:-1]:
            entry["status"] = "superseded" if entry["status"] == "deployed" else entry["status"]
        state["revisions"][name][-1]["status"] = "deployed"
        if name == "fl-site" and "secret/fl-site-join" in state["objects"]:
            joined = {"kind": "Secret", "metadata": {"name": "fl-site-identity"}, "data": {"site.toml": ""}}
            state["objects"]["secret/fl-site-identity"] = joined
        state["values"] = values
        save(state)
    elif words[0] == "rollback":
        for entry in revisions:
            entry["status"] = "superseded" if entry["status"] == "deployed" else entry["status"]
            if entry["status"].startswith("pending"):
                entry["status"] = "failed"
        revise(state, name, "deployed", f"Rollback to {plain[plain.index(name) + 2]}")
    elif words[0] == "uninstall":
        del state["revisions"][name]
        save(state)
    return 0


def revise(state, name, status, description):
    revisions = state["revisions"][name]
    entry = {"revision": len(revisions) + 1, "status": status, "description": description}
    revisions.append({**entry, "updated": "", "chart": "fl-site-1.0.0", "app_version": "0.3.1"})
    save(state)


def digest(revisions):
    description = revisions[-1]["description"]
    if description.startswith("Rollback to "):
        return digest(revisions[: int(description.split()[-1])])
    return description.removeprefix("fedfleet ")


def snap(words):
    state = load()
    names = [word for word in words[1:] if not word.startswith("-")]
    if words[0] == "list":
        if names[0] not in state["snaps"]:
            print("error: no matching snaps installed", file=sys.stderr)
            return 1
        entry = state["snaps"][names[0]]
        print("Name      Version  Rev   Tracking       Publisher   Notes")
        print(f"microk8s  v1.34.1  8511  {entry['channel']}  canonical✓  {entry['notes']}")
    elif words[0] == "install":
        channel = next((word.partition("=")[2] for word in words if word.startswith("--channel=")), "-")
        state["snaps"]["microk8s"] = {"channel": channel, "notes": "classic"}
        os.symlink(sys.argv[0], "/usr/local/bin/microk8s")
    elif words[0] == "refresh" and "--hold" in words:
        state["snaps"]["microk8s"]["notes"] = "classic,held"
    elif words[0] == "remove":
        state["snaps"].pop("microk8s", None)
        os.remove("/usr/local/bin/microk8s")
    save(state)
    return 0


def microk8s(words):
    state = load()
    if words[0] == "kubectl":
        return kubectl(words[1:], "microk8s" in state["active"])
    if words[0] == "ctr":
        return ctr(words[1:])
    if words[0] == "start":
        state["active"] = sorted({*state["active"], "microk8s"})
    elif words[0] == "enable":
        state["addons"] = sorted({*state["addons"], words[1]})
    elif words[0] == "status" and "yaml" in words:
        if "microk8s" not in state["active"]:
            print("microk8s is not running. Use microk8s inspect for a deeper inspection.")
            return 0
        print("microk8s:\n  running: True\naddons:")
        for name in state["addons"]:
            print(f"  - name: {name}\n    status: enabled")
    save(state)
    return 0


if __name__ == "__main__":
    sys.exit(main())
