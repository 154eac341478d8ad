"""A guest at its machine's tap: a process of suite/guest.py in the pod's network, and how it is told what to do. Knows no agent."""
import json
import subprocess

from .cluster import HERE, Failed, claim


class Guest:
    """While it is open, the tap has somebody at its far end."""

    def __init__(self, node, tap, mac):
        self.node, self.words = node, [tap, mac]

    def __enter__(self):
        inside = f"--net=/run/netns/{namespace(self.node, self.words[0])}"
        self.process = subprocess.Popen(
            [HERE / "in", self.node.name, "nsenter", inside, "python3", HERE / "suite/guest.py", *self.words],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_):
        # It ends with its input; until then it keeps the pod's network alive.
        self.process.communicate(timeout=60)

    def do(self, what):
        """`bind`, `rebind`: the address that it hears, and the options by their number; `decline`: nothing."""
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise Failed(f"guest.py, {what}: {self.process.stderr.read().strip()[-1000:]}")
        heard = json.loads(line)
        return heard.get("address"), {int(code): bytes.fromhex(value) for code, value in heard.get("options", {}).items()}


def namespace(node, link):
    """The name of the pod's that has this link."""
    found = node.sh(f"for name in $(ls /run/netns); do ip -n $name link show {link} >/dev/null 2>&1 && echo $name; done; true").split()
    claim(f"one pod on {node.name} has {link}: {found}", len(found) == 1)
    return found[0]
