"""A process of its own in `control`: `interposer.py PORT` stands between a client and the API server, and does to it what it is told, a
line of JSON at a time: `do` is one of

  pass     as it comes: one connection for each request
  slow     `seconds` later
  hang     no answer at all
  refuse   connections are closed at once
  answer   `status` in place of an answer, with `headers`, for requests whose path has `path`
  expire   a watch is told that its version is gone, by an event in the stream; everything else passes

`cut`: true ends besides what is open. To each line it answers with one: what it was asked for since the last one, as [[method, path]...].
"""
import json
import socket
import ssl
import sys
import threading
import time

SERVER = ("10.99.0.1", 6443)
GONE = {"type": "ERROR", "object": {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Expired", "code": 410,
                                    "message": "too old resource version"}}


class Interposer:
    def __init__(self, port, pki):
        self.rule, self.asked, self.open, self.lock = {"do": "pass"}, [], set(), threading.Lock()
        # With the API server's own name and key; the client looks at both.
        self.inside = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.inside.load_cert_chain(f"{pki}/apiserver.crt", f"{pki}/apiserver.key")
        self.outside = ssl.create_default_context(cafile=f"{pki}/ca.crt")
        self.socket = socket.create_server((SERVER[0], port), backlog=100)

    def listen(self):
        while True:
            connection, _ = self.socket.accept()
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, raw):
        try:
            if self.rule["do"] == "refuse":
                return
            with self.inside.wrap_socket(raw, server_side=True) as client:
                with self.lock:
                    self.open.add(client)
                try:
                    self.one_request(client)
                finally:
                    with self.lock:
                        self.open.discard(client)
        except OSError:
            pass  # either side went away
        finally:
            raw.close()

    def one_request(self, client):
        head, body = self.read(client)
        if not head:
            return
        method, path = head.split(b"\r\n")[0].decode().split()[:2]
        with self.lock:
            self.asked.append([method, path])
        rule = self.rule
        if rule["do"] == "slow":
            time.sleep(rule["seconds"])
        if rule["do"] == "hang":
            client.recv(1)
        elif rule["do"] == "answer" and rule.get("path", "") in path:
            client.sendall(self.answer(rule["status"], rule.get("headers", {})))
        elif rule["do"] == "expire" and "watch=1" in path:
            client.sendall(self.answer(200, {}, GONE))
        else:
            self.hand_on(client, head, body)

    @staticmethod
    def read(client):
        text = b""
        while b"\r\n\r\n" not in text:
            if not (more := client.recv(65536)):
                return b"", b""
            text += more
        head, body = text.split(b"\r\n\r\n", 1)
        fields = dict(line.lower().split(b":", 1) for line in head.split(b"\r\n")[1:])
        while len(body) < int(fields.get(b"content-length", b"0")):
            body += client.recv(65536)
        return head, body

    @staticmethod
    def answer(status, headers, what=None):
        what = what or {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": status, "message": "by the test"}
        body = json.dumps(what) + "\n"
        fields = {"content-type": "application/json", "content-length": len(body), "connection": "close", **headers}
        return (f"HTTP/1.1 {status} Trouble\r\n" + "".join(f"{k}: {v}\r\n" for k, v in fields.items()) + "\r\n" + body).encode()

    def hand_on(self, client, head, body):
        with self.outside.wrap_socket(socket.create_connection(SERVER), server_hostname=SERVER[0]) as server:
            lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"connection:")]
            server.sendall(b"\r\n".join([*lines, b"connection: close", b"", body]))
            while piece := server.recv(65536):
                client.sendall(piece)

    def told(self, line):
        rule = json.loads(line)
        with self.lock:
            asked, self.asked = self.asked, []
            still_open = list(self.open) if rule.pop("cut", False) else []
            self.rule = rule
        for connection in still_open:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # has ended meanwhile
        return asked


def main():
    interposer = Interposer(int(sys.argv[1]), sys.argv[2])
    threading.Thread(target=interposer.listen, daemon=True).start()
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(interposer.told(line)), flush=True)


main()
