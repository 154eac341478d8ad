"""A process of its own in a node: `asker.py TIMES PODS` asks the agent for one pod after the other, each on a connection of its own as
the plugin does, and prints the milliseconds of each answer. PODS: a list of namespace, name and uid in JSON."""
import json
import socket
import sys
import time

SOCKET = "/run/trestle/agent.sock"


def ask(pod):
    question = {"v": 1, "pod": {"pod": pod, "home": "kube-system", "also": []}}
    with socket.socket(socket.AF_UNIX) as agent:
        agent.connect(SOCKET)
        agent.sendall((json.dumps(question) + "\n").encode())
        answer = b""
        while not answer.endswith(b"\n"):
            answer += agent.recv(65536)
    return json.loads(answer)


def main():
    times, pods = int(sys.argv[1]), json.loads(sys.argv[2])
    took = []
    for n in range(times):
        begun = time.perf_counter()
        answer = ask(pods[n % len(pods)])
        took.append((time.perf_counter() - begun) * 1000)
        # Neither "wait" nor an error: an answer out of what is known.
        assert len(answer["pod"]["networks"]) == 2, answer
    print(json.dumps(took))


main()
