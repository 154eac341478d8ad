"""What Trestle's own accounts asked the API server of the tests' own cluster for: conf/audit.yaml says whose requests it writes down."""
import json
from collections import Counter

from . import meta
from .nodes import CONTROL

LOG = meta.disk(CONTROL, "log/audit")


def mark():
    """For `since`."""
    return LOG.stat().st_size if LOG.exists() else 0


def since(mark, account):
    """How often it asked for what since then, as "patch pods/status"; a watch counts when it ends."""
    if not LOG.exists():
        return Counter()
    with LOG.open() as file:
        file.seek(mark)
        events = [json.loads(line) for line in file]
    asked = [e for e in events if e["user"]["username"] == f"system:serviceaccount:trestle-system:{account}"]
    return Counter(f"{e['verb']} {'/'.join(filter(None, (what(e, 'resource'), what(e, 'subresource'))))}" for e in asked)


def what(event, key):
    return event.get("objectRef", {}).get(key, "")
