"""Isolated hosts to log in to: an overlay root, namespaces of their own, their own sshd. Needs root; leaves nothing.

The root file system is made once by debootstrap and kept; K3s, MicroK8s, snap, systemctl and helm on it are recorders
(``recorder.py``).
"""

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

CACHE = Path(os.environ.get("FEDFLEET_TEST_CACHE", "/var/cache/fedfleet-tests"))
PACKAGES = "openssh-server,sudo,iproute2,openssl,curl,ca-certificates,python3"
NEEDED = {"debootstrap": "debootstrap", "sshd": "openssh-server", "ip": "iproute2", "ssh": "openssh-client"}
RECORDED = ("systemctl", "snap", "sysctl", "journalctl")
HERE = Path(__file__).parent

SUDOERS = "fleet ALL=(root) NOPASSWD: /bin/sh, /usr/bin/sh, /usr/bin/true\n"
"""As docs/tutorials/roll-out-a-fleet.md has it."""

INSTALL_SH = """\
#!/bin/sh
# Does what K3s' own installer leaves behind, as far as the fleet relies on it.
set -e
unit=k3s; [ "$INSTALL_K3S_EXEC" = agent ] && unit=k3s-agent
mkdir -p /etc/systemd/system
echo "[Service]" > /etc/systemd/system/$unit.service
cat > /usr/local/bin/$unit-uninstall.sh 2>/dev/null <<EOF
#!/bin/sh
systemctl stop $unit
rm -rf /etc/systemd/system/$unit.service /etc/rancher/k3s /var/lib/rancher/k3s /usr/local/bin/k3s
rm -f "\\$0"
EOF
name=$unit-uninstall.sh; [ $unit = k3s-agent ] && name=k3s-agent-uninstall.sh
[ $unit-uninstall.sh = $name ] || mv /usr/local/bin/$unit-uninstall.sh /usr/local/bin/$name
chmod 755 /usr/local/bin/$name
"""


def run(*words, check=True, **more):
    return subprocess.run([str(word) for word in words], check=check, capture_output=True, text=True, **more)


def missing():
    """Why there can be no hosts here; empty if there can."""
    if os.geteuid() != 0:
        return "needs root, for namespaces and overlays"
    if any(shutil.which(program, path="/usr/sbin:/usr/bin:/sbin:/bin") is None for program in NEEDED):
        if shutil.which("apt-get") is None:
            return "needs debootstrap and OpenSSH"
        run("apt-get", "update", "-qq", check=False)
        done = run("apt-get", "install", "-y", "-qq", "--no-install-recommends", *NEEDED.values(), check=False)
        if done.returncode:
            return f"could not install debootstrap and OpenSSH: {done.stderr.strip().splitlines()[-1:]}"
    return ""


def rootfs():
    """The hosts' root file system, made on first use."""
    CACHE.mkdir(parents=True, exist_ok=True)
    done = CACHE / "rootfs"
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (done / "etc/fedfleet-test-host").exists():
            made = CACHE / "rootfs.new"
            shutil.rmtree(made, ignore_errors=True)
            # What it mounts there goes with its namespace, even if it is ended on its way.
            run("unshare", "--mount", "debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", made)
            shutil.rmtree(made / "var/cache/apt/archives", ignore_errors=True)
            for key in (made / "etc/ssh").glob("ssh_host_*"):
                key.unlink()
            run("chroot", made, "useradd", "-p", "*", "-m", "-s", "/bin/sh", "fleet")
            (made / "etc/fedfleet-test-host").touch()
            made.rename(done)
    return done


class Host:
    """One host."""

    def __init__(self, net, number):
        self.net, self.number = net, number
        self.name, self.address = f"edge-{number}", f"{net.prefix}.{number + 10}"
        self.folder = net.folder / str(number)
        self.root = self.folder / "root"
        self.netns, self.link = f"{net.name}-{number}", f"{net.name}v{number}"
        self.process = None

    def make(self):
        for name in ("up", "work", "root"):
            (self.folder / name).mkdir(parents=True)
        layers = f"lowerdir={rootfs()},upperdir={self.folder / 'up'},workdir={self.folder / 'work'}"
        run("mount", "-t", "overlay", "overlay", "-o", layers, self.root)
        run("ip", "netns", "add", self.netns)
        run("ip", "link", "add", self.link, "type", "veth", "peer", "name", "eth0", "netns", self.netns)
        run("ip", "link", "set", self.link, "master", self.net.bridge, "up")
        inside = (f"addr add {self.address}/24 dev eth0", "link set lo up", "link set eth0 up",
                  f"route add default via {self.net.prefix}.1")  # fmt: skip
        for command in inside:
            run("ip", "-n", self.netns, *command.split())
        # sudo looks the host's own name up, and would wait for a name server that is not there.
        (self.root / "etc/hosts").write_text(f"127.0.0.1 localhost {self.name}\n")
        (self.root / "etc/resolv.conf").write_text("")
        (self.root / "etc/sudoers.d/fleet").write_text(SUDOERS)
        self.new_key()
        home = self.root / "home/fleet/.ssh"
        home.mkdir(mode=0o700)
        (home / "authorized_keys").write_text(self.net.key.with_suffix(".pub").read_text())
        run("chroot", self.root, "chown", "-R", "fleet:fleet", "/home/fleet")
        for name in RECORDED:
            shutil.copy(HERE / "recorder.py", self.root / "usr/local/bin" / name)
            (self.root / "usr/local/bin" / name).chmod(0o755)
        self.start()

    def new_key(self):
        """Another host key than before."""
        key = self.root / "etc/ssh/ssh_host_ed25519_key"
        for path in (key, key.with_suffix(".pub")):
            path.unlink(missing_ok=True)
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)

    @property
    def known_hosts_line(self):
        return f"{self.address} {(self.root / 'etc/ssh/ssh_host_ed25519_key.pub').read_text().strip()}\n"

    def start(self):
        mounts = (
            f"mount -t proc proc {self.root}/proc; mount --rbind /dev {self.root}/dev; mkdir -p {self.root}/run/sshd"
        )
        options = "-D -e -o UsePAM=no -o PermitRootLogin=no -o PasswordAuthentication=no -o MaxStartups=100"
        script = f"{mounts}; hostname {self.name}; exec chroot {self.root} /usr/sbin/sshd {options}"
        words = ["nsenter", f"--net=/run/netns/{self.netns}", "unshare", "--mount", "--pid", "--fork", "--uts", "--ipc",
                 "--kill-child", "--propagation", "private", "sh", "-c", script]  # fmt: skip
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def wait(self):
        """Until its sshd answers."""
        import socket

        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError), socket.create_connection((self.address, 22), timeout=2) as connection:
                if connection.recv(4):
                    return
            assert time.monotonic() < deadline, (self.folder / "log").read_text()
            time.sleep(0.05)

    def power_off(self):
        """Everything on it ends at once."""
        self.process.kill()
        self.process.wait()

    def reboot(self):
        self.power_off()
        self.start()

    def cut(self):
        """Packets vanish, nobody is told."""
        run("ip", "link", "set", self.link, "nomaster")

    def mend(self):
        run("ip", "link", "set", self.link, "master", self.net.bridge)

    def inside(self, script):
        """A command on the host, past its sshd."""
        found = run("pgrep", "-P", self.process.pid, check=False).stdout.split()
        return run("nsenter", "-t", found[0], "-m", "-p", "-r", "sh", "-c", script).stdout

    def file(self, path):
        return self.root / path.lstrip("/")

    def nature(self, **keys):
        path = self.file("/var/lib/recorder/nature.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(keys))

    def recorded(self, program=None):
        """What its recorders were asked."""
        path = self.file("/var/lib/recorder/log")
        asked = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [words for words in asked if program in (None, words[0])]

    @property
    def state(self):
        return json.loads(self.file("/var/lib/recorder/state.json").read_text())


class Net:
    """Some hosts on a bridge of their own."""

    def __init__(self, folder):
        number = os.getpid() % 200
        self.name, self.prefix, self.folder = f"fl{number}", f"10.233.{number + 20}", folder / "hosts"
        self.bridge = f"{self.name}br"
        self.key = folder / "key"
        self.hosts = []

    def __enter__(self):
        rootfs()
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.key)
        self.folder.mkdir()
        run("mount", "-t", "tmpfs", "-o", "size=4g", "hosts", self.folder)
        run("ip", "link", "add", self.bridge, "type", "bridge")
        run("ip", "addr", "add", f"{self.prefix}.1/24", "dev", self.bridge)
        run("ip", "link", "set", self.bridge, "up")
        return self

    def add(self, count):
        """More hosts; they answer when this returns."""
        fresh = [Host(self, len(self.hosts) + number) for number in range(count)]
        self.hosts += fresh
        for host in fresh:
            host.make()
        for host in fresh:
            host.wait()
        return fresh

    def __exit__(self, *_):
        for host in self.hosts:
            if host.process is not None:
                host.power_off()
            run("umount", "-l", host.root, check=False)
            run("ip", "netns", "del", host.netns, check=False)
        run("ip", "link", "del", self.bridge, check=False)
        run("umount", "-l", self.folder, check=False)
