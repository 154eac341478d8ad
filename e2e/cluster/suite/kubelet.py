"""A node's kubelet, begun again without what it remembers, and all that is ever written of a resource of its Node. Of the tests' own
cluster only; knows no plugin and no agent."""
import subprocess
import threading
import time

from . import meta
from .cluster import HERE, claim, until

# Takes the device manager's checkpoints away, again and again until its input ends.
FORGET = """
import os, select, sys
folder = "/var/lib/kubelet/device-plugins"
while not select.select([sys.stdin], [], [], 0.002)[0]:
    for name in os.listdir(folder):
        os.unlink(os.path.join(folder, name))
"""


def begin_anew(node, meanwhile=lambda: None):
    """As on a node that was made anew: without checkpoints of its device manager. For kubelet any file in their directory is one, also its
    own socket there, which it makes a tenth of a second before it registers its node: so they are taken away until it has. `meanwhile`:
    while there is none. Returns whether it set all extended resources to 0, by its own word."""
    log = meta.disk(node, "log/kubelet")
    node.service("stop", "kubelet")
    forgetting = subprocess.Popen([HERE / "in", node.name, "python3", "-c", FORGET], stdin=subprocess.PIPE)
    try:
        meanwhile()
        begun = log.stat().st_size
        node.service("start", "kubelet")

        def said(words):
            with log.open(errors="replace") as file:
                file.seek(begun)
                return words in file.read()
        until(90, f"kubelet on {node.name} has registered its node", lambda: said("Successfully registered node"))
        return said("Zero out resource capacity")
    finally:
        forgetting.communicate(timeout=30)


class Watched:
    """While it is open, all values of a resource that the Node has: capacity and allocatable, "" for none, with the time of each."""

    def __init__(self, node, resource):
        key = resource.replace(".", "\\.")
        path = "{.status.capacity['%s']}/{.status.allocatable['%s']}{\"\\n\"}" % (key, key)
        self.command = [HERE / "k", "get", "node", node.name, "--watch", "-o", f"jsonpath={path}"]
        self.seen = []

    def __enter__(self):
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, text=True)
        self.reader = threading.Thread(target=self.read)
        self.reader.start()
        until(30, "the watch has begun", lambda: self.seen)
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.reader.join()
        self.process.wait()

    def read(self):
        for line in self.process.stdout:
            values = tuple(line.strip().split("/"))
            if not self.seen or self.seen[-1][1] != values:
                self.seen.append((time.monotonic(), values))

    def values(self):
        claim("the watch goes on", self.process.poll() is None)
        return [values for _, values in self.seen]

    def seconds(self, values):
        """For how long it had these, the first time; None while it has them."""
        first = self.values().index(values)
        return self.seen[first + 1][0] - self.seen[first][0] if first + 1 < len(self.seen) else None
