"""How many processors this process may really use: a container's quota is not seen by those who count processors.

python -m legible.cores      # prints the number, for --cores
"""

import math
import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """The processors that this process may run on, and no more than its quota pays for; at least 1."""
    return max(1, math.ceil(min(len(os.sched_getaffinity(0)), quota())))


def quota(root: Path = CGROUPS, own: Path = Path("/proc/self/cgroup")) -> float:
    """Processors that the control groups above this process grant; infinite where none limits.

    Args:
        root: where they are mounted; version 2 at its top, of version 1 the controller `cpu` in a folder.
        own: file with the names of this process's groups.
    """
    try:
        groups = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:
        return math.inf
    granted = math.inf
    for _, controllers, name in groups:
        if controllers and "cpu" not in controllers.split(","):
            continue
        place = root / "cpu" if controllers else root
        # In a container the name may be the host's, which is not mounted: its own group is the top then.
        group = place / name.lstrip("/")
        for folder in [group, *group.parents]:
            if folder.is_relative_to(place):
                granted = min(granted, limit_of(folder))
    return granted


def limit_of(group: Path) -> float:
    """Processors that one control group grants."""
    try:
        if (group / "cpu.max").is_file():
            time, period = (group / "cpu.max").read_text().split()
        else:
            time, period = ((group / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
        return int(time) / int(period) if time not in ("max", "-1") else math.inf
    except (OSError, ValueError):
        return math.inf


if __name__ == "__main__":
    print(usable_cores())
