"""Speaks to the API server, through kubectl. Knows no node, no plugin and no case."""
import json
import os
import subprocess
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
ROOT = HERE.parent.parent

# The tests' own cluster, unless the caller's environment names another.
OWN = "KUBECONFIG" not in os.environ
IMAGE = os.environ.get("TRESTLE_TEST_IMAGE", "trestle.test/busybox:1")


class Failed(Exception):
    """A claim that does not hold, or a command that ended otherwise than it should."""


def run(*command, stdin=None, timeout=120):
    try:
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        raise Failed(f"{' '.join(map(str, command))}: no end after {timeout} s") from None
    if done.returncode:
        raise Failed(f"{' '.join(map(str, command))}: {(done.stderr + done.stdout).strip()[-1500:]}")
    return done.stdout


def kubectl(*args, stdin=None, timeout=120):
    return run(HERE / "k" if OWN else "kubectl", *args, stdin=stdin, timeout=timeout)


def get(*args):
    return json.loads(kubectl("get", "-o", "json", *args))


def apply(*objects):
    kubectl("apply", "--server-side", "--force-conflicts", "-f", "-",
            stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)}))


def until(seconds, what, probe):
    """The first true answer of the probe; after so many seconds the failure says what was waited for, and the last answer."""
    end = time.monotonic() + seconds
    while True:
        try:
            answer, said = probe(), None
            if answer:
                return answer
        except Failed as failure:
            answer, said = None, failure
        if time.monotonic() > end:
            raise Failed(f"{what}: not within {seconds} s" + (f" ({said or answer})" if said or answer is not None else ""))
        time.sleep(0.3)


def same(what, got, wanted):
    if got != wanted:
        raise Failed(f"{what}: got {got!r}, wanted {wanted!r}")


def claim(what, holds):
    if not holds:
        raise Failed(what)
