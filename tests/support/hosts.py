"""Hosts of a cluster on one machine: network, process, mount and host-name namespaces, joined by a bridge.

A host can lose its link without a word (``cut``), which is very different from the death of its processes: no connection is
closed. It needs root; ``missing`` says why a machine cannot have hosts.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Host", "Network", "hosts", "missing"]

_NETWORK = "10.77.0"
_PORT = 6399
_RAY = Path(sys.executable).with_name("ray")


def missing() -> str:
    """Why this machine cannot have hosts; empty if it can."""
    if lacking := [name for name in ("ip", "unshare", "nsenter") if shutil.which(name) is None]:
        return f"needs {', '.join(lacking)}"
    name = f"odkd{uuid.uuid4().hex[:6]}"
    for command in (["ip", "netns", "add", name], ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "true"]):
        if subprocess.run(command, capture_output=True, check=False).returncode:
            return f"'{' '.join(command)}' is not permitted here"
    _run("ip", "netns", "del", name)
    return ""


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


@dataclass
class Host:
    """One host: its address, and the process that holds its namespaces."""

    name: str
    address: str
    folder: Path
    switch: str
    holder: subprocess.Popen[bytes]
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def pid(self) -> int:
        """Process 1 of the host, as this machine counts."""
        children = Path(f"/proc/{self.holder.pid}/task/{self.holder.pid}/children").read_text().split()
        return int(children[0])

    def command(self, *words: str) -> list[str]:
        """The command line that runs ``words`` on the host."""
        names = [f"{name}={value}" for name, value in {**_variables(self.folder), **self.variables}.items()]
        return ["nsenter", "-t", str(self.pid), "-m", "-p", "-u", "-n", "env", "-i", *names, *words]

    def run(self, *words: str, seconds: float = 120) -> str:
        """Run a command to its end, and return its output."""
        done = subprocess.run(self.command(*words), capture_output=True, text=True, timeout=seconds, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start(self, *words: str, log: Path) -> subprocess.Popen[bytes]:
        """Start a command whose output goes to ``log``."""
        with log.open("wb") as out:
            return subprocess.Popen(self.command(*words), stdout=out, stderr=out, start_new_session=True)

    def cut(self) -> None:
        """Cut the link: packets are lost, and no connection is closed."""
        _run("ip", "netns", "exec", self.switch, "ip", "link", "set", f"v{self.name}", "down")

    def mend(self) -> None:
        """Join the link again."""
        _run("ip", "netns", "exec", self.switch, "ip", "link", "set", f"v{self.name}", "up")

    def hide(self, folder: Path) -> None:
        """Cover a folder with an empty one, as on a host that lacks a mount."""
        self.run("mount", "-t", "tmpfs", "tmpfs", str(folder))

    def kill(self) -> None:
        """End all processes of the host at once."""
        os.kill(self.pid, signal.SIGKILL)
        self.holder.wait()

    def start_ray(self, head: Host | None, *, cpus: int) -> None:
        """Start a node of Ray; without ``head`` it is the head."""
        where = ["--head", f"--port={_PORT}", "--include-dashboard=false"] if head is None else [f"--address={head.ray}"]
        # As in ray_cluster.yaml.
        self.variables["RAY_health_check_timeout_ms"] = "5000"
        self.run(str(_RAY), "start", *where, f"--node-ip-address={self.address}", f"--num-cpus={cpus}", "--num-gpus=0",
                 "--object-store-memory=100000000", "--disable-usage-stats", seconds=300)  # fmt: skip

    @property
    def ray(self) -> str:
        """The address of Ray's head on this host."""
        return f"{self.address}:{_PORT}"


def _variables(folder: Path) -> dict[str, str]:
    return {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(folder),
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(Path.cwd()),
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",
    }


@dataclass
class Network:
    """A switch with its hosts."""

    folder: Path
    switch: str
    hosts: dict[str, Host] = field(default_factory=dict)

    @staticmethod
    def _ip(space: str, *words: str) -> None:
        _run("ip", "netns", "exec", space, "ip", *words)

    def add(self, name: str) -> Host:
        """A new host, linked to the switch."""
        number = len(self.hosts) + 1
        space, folder = f"{self.switch}-{name}", self.folder / name
        for part in ("tmp-ray", "home"):
            (folder / part).mkdir(parents=True)
        _run("ip", "netns", "add", space)
        _run("ip", "link", "add", f"v{name}", "netns", self.switch, "type", "veth", "peer", "name", "eth0", "netns", space)
        self._ip(self.switch, "link", "set", f"v{name}", "master", "br0", "up")
        self._ip(space, "addr", "add", f"{_NETWORK}.{number}/24", "dev", "eth0")
        for device in ("eth0", "lo"):
            self._ip(space, "link", "set", device, "up")
        # Ray's folder has one path on all nodes, and is each host's own.
        begin = (
            f"hostname {name}; mount -t tmpfs tmpfs /dev/shm; mkdir -p /tmp/ray; "
            f"mount --bind {folder / 'tmp-ray'} /tmp/ray; echo ready; exec sleep infinity"
        )
        inside = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--uts", "bash", "-c", begin]
        # The holder becomes unshare itself, whose child is process 1 of the host.
        holder = subprocess.Popen(
            ["ip", "netns", "exec", space, *inside], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
        )
        assert holder.stdout is not None
        with holder.stdout as out:
            assert out.readline() == b"ready\n"
        host = Host(name, f"{_NETWORK}.{number}", folder / "home", self.switch, holder)
        self.hosts[name] = host
        return host

    def remove(self) -> None:
        """End all hosts and remove their namespaces."""
        for host in self.hosts.values():
            if host.holder.poll() is None:
                host.kill()
        for name in [*(f"{self.switch}-{name}" for name in self.hosts), self.switch]:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


@contextmanager
def hosts(folder: Path, names: Sequence[str]) -> Iterator[Network]:
    """A network with hosts of these names."""
    switch = f"odkd{uuid.uuid4().hex[:4]}"
    network = Network(folder, switch)
    _run("ip", "netns", "add", switch)
    try:
        _run("ip", "netns", "exec", switch, "ip", "link", "add", "br0", "type", "bridge")
        _run("ip", "netns", "exec", switch, "ip", "link", "set", "br0", "up")
        for name in names:
            network.add(name)
        yield network
    finally:
        network.remove()
