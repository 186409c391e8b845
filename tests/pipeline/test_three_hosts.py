"""A head without CPUs and two workers, as hosts of their own: lost links, a lost head, and a host without the home.

The result of each run is compared with that of an undisturbed one, by the hashes of all files.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from storage_schemas.paths.local import LocalPath
from tests.support.hosts import Network, hosts, missing
from tests.support.whole_runs import arguments, copy_without

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(3600)]

CHANGES = {"data__embedded__train_images": 320, "cluster__device": "cpu"}
GOES_ON = 60.0
"""A run goes on within so many seconds after a host was lost."""


@pytest.fixture(scope="module", autouse=True)
def _permitted() -> None:
    if reason := missing():
        pytest.skip(f"no hosts on this machine: {reason}")


@pytest.fixture
def cluster(tmp_path: LocalPath) -> Iterator[Network]:
    with hosts(tmp_path / "hosts", ["head", "w1", "w2"]) as network:
        _start_ray(network)
        yield network


def _start_ray(network: Network) -> None:
    head, *workers = network.hosts.values()
    head.start_ray(None, cpus=0)
    for worker in workers:
        worker.start_ray(head, cpus=1)


class Run:
    """A run whose driver is on the head."""

    def __init__(self, network: Network, home: LocalPath, stage: str) -> None:
        head = network.hosts["head"]
        head.variables["RAY_ADDRESS"] = head.ray
        self.log = home.parent / f"{home.name}-{stage}.log"
        self._began = time.monotonic()
        words = [sys.executable, "-m", "pipeline.run", *arguments(home, stage, **CHANGES)]
        self.process: subprocess.Popen[bytes] = head.start(*words, log=self.log)

    def when(self, condition: Callable[[str], bool]) -> None:
        """Wait until ``condition`` holds for the log."""
        while not condition(self.log.read_text()):
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.05)

    def when_or_ended(self, condition: Callable[[str], bool]) -> None:
        """Wait until ``condition`` holds for the log, or the run has ended."""
        while self.process.poll() is None and not condition(self.log.read_text()):
            time.sleep(0.05)

    def ended(self) -> float:
        """Wait for its success; the seconds since it began."""
        assert self.process.wait(timeout=1200) == 0, self.log.read_text()
        return time.monotonic() - self._began


@pytest.fixture(scope="module")
def undisturbed(_permitted: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[LocalPath, dict[str, float]]:
    """A home in which all stages have run on such hosts, and the seconds of two stages."""
    folder = LocalPath(tmp_path_factory.mktemp("undisturbed"))
    home, seconds = folder / "home", dict[str, float]()
    with hosts(folder / "hosts", ["head", "w1", "w2"]) as network:
        _start_ray(network)
        for stage in ("prepare", "teachers", "targets", "distill"):
            seconds[stage] = Run(network, home, stage).ended()
    return home, seconds


def _hashes(home: LocalPath, *kinds: str) -> dict[tuple[str, str], str]:
    """The hash of each file of all entries of these kinds, by key and name; not of a curve, which has the seconds."""
    manifests = [json.loads(path.read_text()) for kind in kinds for path in (home / "store" / kind).glob("*/manifest.json")]
    return {
        (manifest["key"], name): facts["sha256"]
        for manifest in manifests
        for name, facts in manifest["files"].items()
        if not name.endswith(".jsonl")
    }


STAGES = {
    "targets": (("targets", "views", "students"), lambda log: "targets: train set" in log),
    "distill": (("students",), lambda log: re.search(r"distill: [a-z ]+: [1-9]", log) is not None),
}


@pytest.mark.parametrize("stage", list(STAGES))
@pytest.mark.parametrize("seconds", [30, None], ids=["for-30-s", "for-good"])
def test_a_run_goes_on_without_a_host_whose_link_is_cut(
    cluster: Network, undisturbed: tuple[LocalPath, dict[str, float]], tmp_path: LocalPath, stage: str, seconds: float | None
) -> None:
    whole, took = undisturbed
    kinds, begun = STAGES[stage]
    home = copy_without(whole, tmp_path / "home", *kinds)
    run = Run(cluster, home, stage)
    run.when(begun)
    cluster.hosts["w1"].cut()
    cut = time.monotonic()
    if seconds is not None:
        time.sleep(seconds)
        cluster.hosts["w1"].mend()
    else:
        run.when_or_ended(lambda log: "it continues from its last checkpoint" in log or "a node was lost" in log)
        assert time.monotonic() - cut <= GOES_ON
    # One host does the work of two.
    assert run.ended() <= GOES_ON + 2 * took[stage] + 10
    # The copy lacks the students, where the stage is not the one that makes them.
    made = kinds if stage == "distill" else kinds[:-1]
    assert _hashes(home, *made) == _hashes(whole, *made)


def test_after_the_death_of_the_head_a_run_on_a_new_one_goes_on(
    cluster: Network, undisturbed: tuple[LocalPath, dict[str, float]], tmp_path: LocalPath
) -> None:
    whole, took = undisturbed
    home = copy_without(whole, tmp_path / "home", "students")
    run = Run(cluster, home, "distill")
    run.when(STAGES["distill"][1])
    for host in cluster.hosts.values():
        host.kill()
    with hosts(tmp_path / "again", ["head", "w1", "w2"]) as again:
        _start_ray(again)
        # All leases of the dead run expire together.
        assert Run(again, home, "distill").ended() <= 70 + took["distill"] + 10
    run.process.wait()
    assert _hashes(home, "students") == _hashes(whole, "students")


_OCCUPY = """
import pathlib, sys, time, ray

@ray.remote(num_cpus=1)
def occupy(flag):
    while pathlib.Path(flag).exists():
        time.sleep(0.1)

ray.init(address=sys.argv[1])
ray.get(occupy.remote(sys.argv[2]))
"""
"""Another program, whose task has the only CPU of a host as long as a file exists."""


LATE = {
    "prepare": (("instances", "teachers", "views", "targets", "students", "evaluations"), "prepare: train images"),
    "distill": (("students",), "distill: student and baseline"),
}
"""What each stage makes anew, and what its log says while it waits for a node."""


@pytest.mark.parametrize("stage", list(LATE))
def test_a_late_host_without_the_home_and_the_images_gets_no_work(
    undisturbed: tuple[LocalPath, dict[str, float]], tmp_path: LocalPath, stage: str
) -> None:
    whole, _ = undisturbed
    kinds, waits = LATE[stage]
    home = copy_without(whole, tmp_path / "home", *kinds)
    with hosts(tmp_path / "hosts", ["head", "w1", "w2"]) as network:
        head, late, good = network.hosts.values()
        head.start_ray(None, cpus=0)
        good.start_ray(head, cpus=1)
        flag = tmp_path / "occupied"
        flag.touch()
        occupied = head.start(sys.executable, "-c", _OCCUPY, head.ray, str(flag), log=tmp_path / "occupy.log")
        # The work waits for the good host, and so the late one gets the first.
        run = Run(network, home, stage)
        run.when(lambda log: waits in log)
        late.hide(home)
        late.start_ray(head, cpus=1)
        run.when(lambda log: "10.77.0.2 does not see" in log)
        flag.unlink()
        run.ended()
        assert occupied.wait() == 0
    assert _hashes(home, kinds[0]) == _hashes(whole, kinds[0])
