"""A process of its own in a machine's pod, in the place of the guest: `guest.py TAP MAC` opens the tap as QEMU would. For each line of
its input it does one thing, and prints one line of JSON: `bind` asks for an address as a guest does that boots, `rebind` as one that has
it, `decline` gives it back as another host's. Knows no agent and no cluster."""
import fcntl
import json
import os
import select
import struct
import sys
import time

TUNSETIFF, TAP, NO_HEADER, MULTI_QUEUE = 0x400454CA, 0x0002, 0x1000, 0x0100
COOKIE = bytes([99, 130, 83, 99])
DISCOVER, REQUEST, DECLINE, OFFER, ACK = 1, 3, 4, 2, 5
ADDRESS, KIND, SERVER = 50, 53, 54
NOBODY, EVERYBODY = bytes(4), bytes([255] * 4)
SECONDS = 20


def open_tap(name):
    """It has the queues that its machine's description says."""
    for flags in (TAP | NO_HEADER | MULTI_QUEUE, TAP | NO_HEADER):
        tap = os.open("/dev/net/tun", os.O_RDWR)
        try:
            fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
            return tap
        except OSError:
            os.close(tap)
    raise SystemExit(f"{name} cannot be opened")


def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


class Guest:
    def __init__(self, tap, mac):
        self.tap, self.mac = open_tap(tap), bytes.fromhex(mac.replace(":", ""))
        self.address = self.server = NOBODY

    def frame(self, kind, options, has=NOBODY):
        told = b"".join(bytes([code, len(value)]) + value for code, value in [(KIND, bytes([kind])), *options])
        # (A transaction's number that no other frame has.)
        self.xid = os.urandom(4)
        dhcp = bytes([1, 1, 6, 0]) + self.xid + bytes(4) + has + bytes(12) + self.mac.ljust(16, b"\0") + bytes(192) + COOKIE + told + b"\xff"
        udp = struct.pack("!4H", 68, 67, 8 + len(dhcp), 0) + dhcp
        ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0) + has + EVERYBODY
        ip = ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:]
        return bytes([255] * 6) + self.mac + b"\x08\x00" + ip + udp

    def ask(self, kind, wanted, options=(), has=NOBODY):
        """As clients do: again and again until it is answered."""
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            os.write(self.tap, self.frame(kind, options, has))
            if answer := self.answer(time.monotonic() + 1):
                got = answer[1].get(KIND, b"\0")[0]
                return answer if got == wanted else sys.exit(f"question {kind}: answer {got} instead of {wanted}")
        raise SystemExit(f"question {kind}: no answer in {SECONDS} s")

    def answer(self, end):
        """The address in it and its options, by their numbers."""
        while (left := end - time.monotonic()) > 0 and select.select([self.tap], [], [], left)[0]:
            frame = os.read(self.tap, 65536)
            dhcp = frame[42:]
            if frame[12:14] == b"\x08\x00" and frame[34:38] == struct.pack("!2H", 67, 68) and dhcp[4:8] == self.xid:
                return dhcp[16:20], options(dhcp[240:])
        return None

    def bind(self):
        self.address, told = self.ask(DISCOVER, OFFER)
        self.server = told[SERVER]
        return self.heard(self.ask(REQUEST, ACK, [(ADDRESS, self.address), (SERVER, self.server)]))

    def rebind(self):
        return self.heard(self.ask(REQUEST, ACK, has=self.address))

    def decline(self):
        """Nobody answers that."""
        os.write(self.tap, self.frame(DECLINE, [(ADDRESS, self.address), (SERVER, self.server)]))
        return {}

    def heard(self, answer):
        address, told = answer
        return {"address": ".".join(map(str, address)), "options": {code: value.hex() for code, value in told.items()}}


def options(data):
    found = {}
    while data and data[0] != 255:
        if data[0]:
            found[data[0]] = data[2:2 + data[1]]
        data = data[1:] if not data[0] else data[2 + data[1]:]
    return found


def main():
    guest = Guest(*sys.argv[1:])
    for line in sys.stdin:
        print(json.dumps({"bind": guest.bind, "rebind": guest.rebind, "decline": guest.decline}[line.strip()]()), flush=True)


main()
