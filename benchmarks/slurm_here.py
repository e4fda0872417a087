"""A Slurm of one node on this machine, on loopback, in a folder of its own: for tests and benchmarks.

It needs the programs of Debian's slurm-wlm and munge, no root, no systemd and no accounting, and touches neither
/etc/slurm nor a munge that runs already.
"""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel", "sinfo")
START_SECONDS = 60.0
CONFIGURATION = """\
ClusterName=here
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
MailProg=/bin/true
ReturnToService=2
KillWait=1
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory}
PartitionName=debug Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""
_SBIN = "/usr/sbin"  # where Debian has daemons, which is not on everyone's PATH


def missing() -> str | None:
    """What this machine lacks, in words; None where nothing is missing."""
    lacking = [name for name in PROGRAMS if _program(name) is None]
    return f"no {', '.join(lacking)} (Debian: apt install slurm-wlm munge)" if lacking else None


def _program(name: str) -> str | None:
    return shutil.which(name, path=os.pathsep.join([os.environ["PATH"], _SBIN]))


@contextmanager
def slurm(folder: Path, cpus: int = 2) -> Iterator[dict[str, str]]:
    """Start munge and Slurm, and end them; given is the environment in which its commands find it.

    Args:
        folder: for keys, state and logs; made if it is not there.
        cpus: jobs that run side by side.

    Raises:
        TimeoutError: the node was not idle within ``START_SECONDS``; the end of its logs is in the message.
    """
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o400)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20 * 9 // 10
    configuration = folder / "slurm.conf"
    configuration.write_text(
        CONFIGURATION.format(
            host=socket.gethostname(), user=getpass.getuser(), folder=folder, cpus=cpus, memory=memory, ports=_ports(2)
        )
    )
    environment = os.environ | {"SLURM_CONF": str(configuration)}
    munge = {"key-file": "munge.key", "socket": "munge.socket", "pid-file": "munge.pid", "log-file": "munge.log"}
    munge |= {"seed-file": "munge.seed"}
    started: list[subprocess.Popen[bytes]] = []
    try:
        for command in (
            ["munged", "--foreground", "--force", *(f"--{name}={folder / file}" for name, file in munge.items())],
            ["slurmctld", "-D", "-f", str(configuration)],
            ["slurmd", "-D", "-f", str(configuration)],
        ):
            with open(folder / f"{command[0]}.out", "wb") as out:
                program = [str(_program(command[0])), *command[1:]]
                started.append(subprocess.Popen(program, env=environment, stdout=out, stderr=out))
            if command[0] == "munged":
                _until(lambda: (folder / "munge.socket").exists(), folder)
        _until(lambda: "idle" in _said(["sinfo", "-h", "-o", "%T"], environment), folder)
        yield environment
    finally:
        if len(started) == 3:
            subprocess.run(["scancel", "--me"], env=environment, capture_output=True, check=False)
        for daemon in reversed(started):
            daemon.send_signal(signal.SIGTERM)
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


def _ports(number: int) -> list[int]:
    """Ports that nobody uses now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    found = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return found


def _said(command: list[str], environment: dict[str, str]) -> str:
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False).stdout


def _until(true: Callable[[], bool], folder: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not true():
        if time.monotonic() > deadline:
            ends = [path.read_text(errors="replace")[-300:] for path in sorted(folder.glob("*.out"))]
            raise TimeoutError(f"Slurm did not start within {START_SECONDS:.0f} s: {ends}")
        time.sleep(0.2)
