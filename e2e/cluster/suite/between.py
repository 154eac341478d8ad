"""What stands between the agents and the API server: a process of suite/interposer.py in `control`, and how it is told what to do."""
import json
import subprocess
from pathlib import Path

from . import meta
from .cluster import Failed, HERE
from .nodes import CONTROL

SERVER = (CONTROL.address, 7443)


class Between:
    def __enter__(self):
        pki = Path(meta.disk(CONTROL, "../pki")).resolve()
        self.process = subprocess.Popen([HERE / "in", "control", "python3", HERE / "suite/interposer.py", str(SERVER[1]), str(pki)],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.answer()
        return self

    def __exit__(self, *_):
        # It ends with its input.
        self.process.communicate(timeout=30)

    def do(self, do, cut=False, **more):
        """From now on; returns what it was asked for since it was told something last, as (method, path)."""
        self.process.stdin.write(json.dumps({"do": do, "cut": cut, **more}) + "\n")
        self.process.stdin.flush()
        return [tuple(asked) for asked in json.loads(self.answer())]

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise Failed(f"interposer.py has ended with {self.process.wait()}")
        return line
