"""A real SLURM of one node, set up in a folder of its own and taken down by process id.

Outside of the folder there is only a link, /etc/slurm/slurm.conf: a job's srun is started without SLURM_CONF.

munge, MariaDB, slurmdbd, slurmctld, slurmd; two pretended GPUs, two partitions, and where the machine has the
controllers: processes tracked and memory limited by cgroups. Everything runs as root, which slurmd needs.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

NEEDED = ("slurmctld", "slurmd", "slurmdbd", "munged", "mariadbd")
PACKAGES = "slurm-wlm slurmdbd munge mariadb-server"
CONTROLLERS = ("freezer", "memory", "cpuset", "devices")
CPUS, MEMORY, GPUS = 8, 64_000, 2  # what the node pretends to have
USUAL = Path("/etc/slurm/slurm.conf")
DAEMONS = "/usr/sbin:/usr/bin:/sbin:/bin"


def cannot_run() -> str:
    """Why this machine cannot have a SLURM of its own, in a sentence; empty where it can."""
    if os.geteuid() != 0:
        return "slurmd needs root"
    if missing := [name for name in NEEDED if not shutil.which(name, path=DAEMONS)]:
        return f"{missing[0]} is not installed (Debian: apt-get install --no-install-recommends {PACKAGES})"
    if USUAL.is_symlink() or USUAL.exists():
        return f"{USUAL} is there: this machine has a SLURM already, or a drill was killed and left the link behind"
    return ""


def has_cgroups() -> bool:
    """Whether processes can be tracked, and memory limited, by cgroups (version 1, as slurm-wlm 22.05 uses them)."""
    return all(os.access(f"/sys/fs/cgroup/{name}/cgroup.procs", os.W_OK) for name in CONTROLLERS)


class Slurm:
    """The daemons, in the order in which they were started."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.host, self.cgroups = folder, socket.gethostname().split(".")[0], has_cgroups()
        self.running: dict[str, subprocess.Popen] = {}
        self.environment = os.environ | {
            "SLURM_CONF": str(folder / "slurm.conf"),
            "PATH": f"{os.environ['PATH']}:{DAEMONS}",
        }
        for name in ("munge", "database", "ctld", "slurmd", "log", "run"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)

    def start(self, name: str, *command: str) -> None:
        """A daemon in the foreground, its words in log/."""
        with open(self.folder / "log" / f"{name}.log", "ab") as log:
            self.running[name] = subprocess.Popen(
                command, env=self.environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )

    def stop(self, name: str, number: signal.Signals = signal.SIGTERM) -> None:
        """End a daemon that was started here, by its process id."""
        process = self.running.pop(name)
        process.send_signal(number)
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()

    def call(self, *command: str) -> str:
        """What a command says; empty where it fails."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60)
        return done.stdout if done.returncode == 0 else ""

    def wait_for(self, what: str, ready: Callable[[], object], seconds: float = 90) -> None:
        """Wait until `ready` says so."""
        end = time.monotonic() + seconds
        while not ready():
            if time.monotonic() > end:
                raise RuntimeError(f"{what} is not ready after {seconds:.0f} s; see {self.folder / 'log'}")
            time.sleep(0.5)

    def up(self) -> None:
        """Start everything, with accounts."""
        folder, key = self.folder, self.folder / "munge" / "key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        files = [f"--key-file={key}", f"--socket={folder}/run/munge", f"--pid-file={folder}/run/munged.pid"]
        files += [f"--seed-file={folder}/munge/seed", f"--log-file={folder}/log/munge"]
        self.start("munged", "munged", "--foreground", "--force", *files)
        data, door = folder / "database" / "data", folder / "database" / "socket"
        make = ["mariadb-install-db", "--user=root", f"--datadir={data}", "--auth-root-authentication-method=socket"]
        subprocess.run(make, check=True, capture_output=True, env=self.environment)
        self.start("database", "mariadbd", "--no-defaults", "--user=root", f"--datadir={data}", f"--socket={door}",
                   "--port=13306", "--bind-address=127.0.0.1", "--innodb-buffer-pool-size=64M")  # fmt: skip
        self.wait_for("the database", door.exists)
        sql = "CREATE DATABASE slurm; CREATE USER slurm@'127.0.0.1' IDENTIFIED BY 'slurm'; "
        sql += "GRANT ALL ON slurm.* TO slurm@'127.0.0.1';"
        subprocess.run(["mariadb", "--no-defaults", f"--socket={door}", "-e", sql], check=True, env=self.environment)
        (folder / "slurmdbd.conf").write_text(
            f"AuthType=auth/munge\nAuthInfo=socket={folder}/run/munge\nDbdHost={self.host}\nDbdAddr=127.0.0.1\n"
            f"DbdPort=16819\nSlurmUser=root\n"
            f"StorageType=accounting_storage/mysql\nStorageHost=127.0.0.1\nStoragePort=13306\nStorageUser=slurm\n"
            f"StoragePass=slurm\nStorageLoc=slurm\nPidFile={folder}/run/slurmdbd.pid\nLogFile={folder}/log/slurmdbd\n"
        )
        (folder / "slurmdbd.conf").chmod(0o600)
        for number in range(GPUS):
            subprocess.run(["mknod", f"{folder}/gpu{number}", "c", "1", "3"], check=True)
        (folder / "gres.conf").write_text(f"AutoDetect=off\nName=gpu Type=h200 File={folder}/gpu[0-{GPUS - 1}]\n")
        (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\nConstrainRAMSpace=yes\nConstrainSwapSpace=no\n")
        self.start("slurmdbd", "slurmdbd", "-D")
        self.configure(accounts=True)
        USUAL.symlink_to(self.folder / "slurm.conf")
        self.wait_for("slurmdbd", lambda: "Cluster" in self.call("sacctmgr", "show", "cluster"))
        self.call("sacctmgr", "-i", "add", "cluster", "legible")
        self.call("sacctmgr", "-i", "add", "account", "letters", "cluster=legible")
        self.call("sacctmgr", "-i", "add", "user", "root", "account=letters")
        self.start_slurm()

    def configure(self, accounts: bool) -> None:
        """Write slurm.conf."""
        by = "cgroup" if self.cgroups else "linuxproc"
        kept = "none"
        if accounts:  # the "password" is munge's own socket; job comments name the rules
            kept = (
                "slurmdbd\nAccountingStorageHost=127.0.0.1\nAccountingStoragePort=16819\nAccountingStorageTRES=gres/gpu"
            )
            kept += f"\nAccountingStoragePass={self.folder}/run/munge\nAccountingStoreFlags=job_comment"
        (self.folder / "slurm.conf").write_text(
            f"ClusterName=legible\nSlurmctldHost={self.host}(127.0.0.1)\nSlurmUser=root\nAuthType=auth/munge\n"
            f"AuthInfo=socket={self.folder}/run/munge,cred_expire=30\nSlurmctldPort=16817\nSlurmdPort=16818\nMpiDefault=none\n"
            f"ProctrackType=proctrack/{by}\nTaskPlugin=task/{'cgroup' if self.cgroups else 'none'}\nReturnToService=2\n"
            f"SchedulerType=sched/backfill\nSelectType=select/cons_tres\nSelectTypeParameters=CR_Core_Memory\n"
            f"JobAcctGatherType=jobacct_gather/{'cgroup' if self.cgroups else 'linux'}\nJobRequeue=1\nGresTypes=gpu\n"
            f"AccountingStorageType=accounting_storage/{kept}\nSlurmdParameters=config_overrides\nKillWait=30\n"
            f"StateSaveLocation={self.folder}/ctld\nSlurmdSpoolDir={self.folder}/slurmd\nSlurmctldTimeout=60\n"
            f"SlurmctldPidFile={self.folder}/run/ctld.pid\nSlurmdPidFile={self.folder}/run/slurmd.pid\nSlurmdTimeout=60\n"
            f"SlurmctldLogFile={self.folder}/log/ctld\nSlurmdLogFile={self.folder}/log/slurmd\n"
            f"NodeName={self.host} NodeAddr=127.0.0.1 CPUs={CPUS} RealMemory={MEMORY} Gres=gpu:h200:{GPUS}\n"
            f"PartitionName=cpu Nodes={self.host} Default=YES\nPartitionName=gpu Nodes={self.host}\n"
        )

    def start_slurm(self) -> None:
        """The controller and the node."""
        self.start("slurmctld", "slurmctld", "-D")
        self.start("slurmd", "slurmd", "-D")
        self.wait_for("the node", lambda: "idle" in self.call("sinfo", "-h", "-p", "cpu", "-o", "%T"))

    def down(self) -> None:
        """End all jobs, then the daemons, the last one first; remove the groups of processes and the folder."""
        if "slurmctld" in self.running:
            self.call("scancel", "--user=root")
            self.wait_for("the end of all jobs", lambda: not self.call("squeue", "-h"))
        for name in reversed(list(self.running)):
            self.stop(name)
        for place in Path("/sys/fs/cgroup").glob(f"*/slurm_{self.host}"):
            for group in sorted((path for path in place.rglob("*") if path.is_dir()), reverse=True):
                group.rmdir()  # what lies within sorts behind
            place.rmdir()
        USUAL.unlink(missing_ok=True)
        shutil.rmtree(self.folder)
