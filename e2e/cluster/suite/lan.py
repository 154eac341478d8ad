"""A DHCP server on the LAN of the tests' own cluster: dnsmasq in `control`. Knows addresses and MACs, and no pod."""
import re
from datetime import datetime

from . import meta
from .nodes import CONTROL

NET, SERVER, LINK = "10.82.0", "10.82.0.1", "lan"
# The least that dnsmasq gives, and when it wants to be asked again.
LEASE_SECONDS, RENEW_SECONDS = 120, 20


class Dhcp:
    """While it is open, the LAN has a server."""

    def __init__(self):
        self.leases, self.log, self.pid = (meta.disk(CONTROL, f"dnsmasq.{what}") for what in ("leases", "log", "pid"))

    def __enter__(self):
        for path in (self.leases, self.log, self.pid):
            path.unlink(missing_ok=True)
        CONTROL.run("ip", "addr", "replace", f"{SERVER}/24", "dev", LINK)
        # (It looks by ping whether somebody has the address, for 3 s; the client looks for itself.)
        CONTROL.run("dnsmasq", "-C", "/dev/null", "-p0", "-i", LINK, "--bind-interfaces", "--no-ping", "--no-hosts", "--user=root",
                     "--dhcp-authoritative", f"--dhcp-range={NET}.10,{NET}.250,{LEASE_SECONDS}", "--dhcp-lease-max=1000",
                     f"--dhcp-option=option:T1,{RENEW_SECONDS}", f"--dhcp-leasefile={self.leases}",
                     f"--log-facility={self.log}", f"--pid-file={self.pid}")
        return self

    def __exit__(self, *_):
        CONTROL.run("kill", self.pid.read_text().strip())
        CONTROL.run("ip", "addr", "del", f"{SERVER}/24", "dev", LINK)

    def leased(self):
        """The addresses that it has given away and not got back."""
        return {line.split()[2] for line in self.leases.read_text().splitlines() if line.split()}

    def said(self, what):
        """When it said this to an address, by address; the log has whole seconds."""
        found = {}
        for stamp, address in re.findall(rf"^(\w+ +\d+ [\d:]+) dnsmasq-dhcp\S* {what}\(\w+\) ([\d.]+)", self.log.read_text(), re.M):
            found.setdefault(address, []).append(datetime.strptime(f"2000 {stamp}", "%Y %b %d %H:%M:%S").timestamp())
        return found
