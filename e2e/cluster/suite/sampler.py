"""A process of its own, so that the run does not slow its looking: `sampler.py PID NOT...` looks every few milliseconds at the programs
of /opt/cni/bin that run below the process PID, but for those named NOT, and at the end of its input prints the most memory (PSS, in
KiB) that they had together at one moment, and how often it looked."""
import glob
import os
import select
import sys

EVERY_SECONDS = 0.005
WHERE = "/opt/cni/bin/"


def children(pid):
    for path in glob.glob(f"/proc/{pid}/task/*/children"):
        try:
            with open(path) as file:
                yield from file.read().split()
        except OSError:
            pass  # has ended meanwhile, here and below


def pss(pid):
    try:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            return next((int(line.split()[1]) for line in file if line.startswith("Pss:")), 0)
    except OSError:
        return 0


def program(pid):
    try:
        return os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return ""


def plugins_below(pid, besides):
    for child in children(pid):
        path = program(child)
        if path.startswith(WHERE):
            if path not in besides:
                yield child
            yield from plugins_below(child, besides)


def main():
    pid, besides = sys.argv[1], {WHERE + name for name in sys.argv[2:]}
    most, looks = 0, 0
    while not select.select([sys.stdin], [], [], EVERY_SECONDS)[0]:
        most = max(most, sum(map(pss, list(plugins_below(pid, besides)))))
        looks += 1
    print(most, looks)


main()
