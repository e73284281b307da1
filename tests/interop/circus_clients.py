"""Circus's own client programs, unmodified, and clients that mean no good, against a manager of kingpole.

    python circus_clients.py client|top|hostile|pause ENDPOINT [MORE]

The manager has a watcher `sleeper` with two processes. Ends with 0 when everything was as it should be.
"""

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import socket
import struct
import subprocess
import sys
import termios
import threading
import time

import zmq
from circus.client import CircusClient
from circus.exc import CallError

DEADLINE_SECONDS = 60


def check(truth, text):
    if not truth:
        raise SystemExit("FAILED: %s" % text)
    print("ok: " + text, flush=True)


def wait_for(what, probe):
    end = time.monotonic() + DEADLINE_SECONDS
    while True:
        seen = probe()
        if seen:
            return seen
        if time.monotonic() > end:
            raise SystemExit("FAILED: waited %d s for %s" % (DEADLINE_SECONDS, what))
        time.sleep(0.02)


context = zmq.Context()


@contextlib.contextmanager
def connected(kind, endpoint, identity=None):
    one = context.socket(kind)
    one.linger = 0
    one.rcvtimeo = DEADLINE_SECONDS * 1000
    one.maxmsgsize = -1
    if identity is not None:
        one.identity = identity
    one.connect(endpoint)
    try:
        yield one
    finally:
        one.close()


def body(command, **more):
    return json.dumps({"command": command, **more}).encode()


def client(endpoint):
    circus = CircusClient(endpoint=endpoint, timeout=DEADLINE_SECONDS)
    call = lambda command, **properties: circus.send_message(command, **properties)
    check(call("numprocesses", name="SLEEPER")["numprocesses"] == 2, "CircusClient is answered")
    reply = call("list", name="sleeper")
    check(reply["status"] == "ok" and len(reply["pids"]) == 2, "with pids")
    reply = call("incr", name="sleeper", nb="1", waiting=True)
    check(reply["numprocesses"] == 3, "a number may be a text")
    check(call("decr", name="sleeper", waiting=True)["numprocesses"] == 2, "and back")
    info = call("stats", name="sleeper")["info"]
    keys = "mem_info1 mem_info2 cpu mem ctime pid username nice create_time age cmdline children started wid"
    check(all(list(one) == keys.split() for one in info.values()), "stats have Circus's keys in order")
    reply = call("restart", name="sleeper", waiting=True)
    check(len(reply["info"]["started"]) == 2 == len(reply["info"]["stopped"]), "restart tells pids")
    check(call("stop", name="sleeper", waiting=True)["info"] is None, "stop says so")
    reply = call("start", name="sleeper", waiting=True)
    check(len(reply["info"]["started"]) == 2, "start tells pids")
    reply = call("signal", name="sleeper", signum="18", pid=str(reply["info"]["started"][0]))
    check(reply["status"] == "ok", "a pid may be a text")
    reply = call("kill", name="sleeper", graceful_timeout="2", waiting=True)
    check(reply["status"] == "ok", "a time-out may be a text")
    wait_for("the successors", lambda: len(call("list", name="sleeper")["pids"]) == 2)
    for command, properties, errno in [
        ("incr", {}, 3),
        ("list", {"name": "nope"}, 3),
        ("add", {"name": "sleeper", "cmd": "x"}, 5),
        ("signal", {"name": "sleeper", "signum": 9999}, 4),
        ("signal", {"name": "sleeper", "signum": "SIGBOGUS"}, 5),
        ("set", {"name": "sleeper", "options": {"numprocesses": "many"}}, 3),
        ("start", {"name": "sleeper", "match": "bogus"}, 3),
        ("listen", {}, 3),
    ]:
        reply = call(command, **properties)
        check((reply["status"], reply["errno"]) == ("error", errno), "%s %s" % (command, reply["reason"]))

    with connected(zmq.DEALER, endpoint, b"0123456789abcdef" * 2) as raw:
        for number in range(200):
            raw.send(body("status", id=number))
        replies = [json.loads(raw.recv()) for _ in range(200)]
        check([r["id"] for r in replies] == list(range(200)), "200 requests at once, 200 replies in order")
        raw.send(body("numwatchers", msg_type="cast"))
        raw.send(body("nonsense", msg_type="cast"))
        raw.send(body("numprocesses"))
        raw.send(body("NumWatchers"))
        check("numprocesses" in json.loads(raw.recv()), "a cast has no reply, not even an error")
        check("numwatchers" in json.loads(raw.recv()), "replies without ids keep their order")
        raw.send_multipart([b"route", b"", body("list", id=1)])
        envelope = raw.recv_multipart()
        check(envelope[:2] == [b"route", b""] and len(envelope) == 3, "an envelope comes back")
        for wrong, errno in [(b"{nope", 1), (b"", 1), (b"[1]", 1), (b"{}", 2), (b'{"command": "x"}', 2)]:
            raw.send(wrong)
            reply = json.loads(raw.recv())
            check(reply["errno"] == errno and reply["id"] is None, "%r is answered" % wrong)
        raw.send(b'{"command": "list", "id": 123456789012345678901234567890}')
        check(b'"id": 123456789012345678901234567890' in raw.recv(), "a large id comes back as it was")
    with connected(zmq.REQ, endpoint) as req:
        for _ in range(3):
            req.send(body("list"))
            check(json.loads(req.recv())["status"] == "ok", "a REQ socket is answered too")
    with connected(zmq.DEALER, endpoint, b"same") as one, connected(zmq.DEALER, endpoint, b"same") as two:
        for name, peer in ((1, one), (2, two), (1, one)):
            peer.send(body("list", id=name))
            check(json.loads(peer.recv())["id"] == name, "two peers of one name get their own replies")
    with connected(zmq.DEALER, endpoint) as beating:
        beating.heartbeat_ivl = 20
        for number in range(5):
            beating.send(body("list", id=number))
            check(json.loads(beating.recv())["id"] == number, "heartbeats disturb nobody")
            time.sleep(0.05)


def top(stats_endpoint, *pids):
    child, terminal = pty.fork()
    if child == 0:
        os.environ.update(TERM="xterm", LINES="40", COLUMNS="120")
        program = "import sys; from circus.stats.client import main; sys.argv[0] = 'circus-top'; main()"
        os.execv(sys.executable, [sys.executable, "-c", program, "--endpoint", stats_endpoint])
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    seen = b""

    def look():
        nonlocal seen
        if select.select([terminal], [], [], 0.1)[0]:
            seen += os.read(terminal, 65536)
        text = re.sub(rb"\x1b[\[(][0-9;?]*[a-zA-Z]", b" ", seen).decode(errors="replace")
        return all(word in text for word in ("sleeper", "(circusd)", "CPU") + pids)

    try:
        wait_for("circus-top to show %s; it shows %r" % (pids, seen[-500:]), look)
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
    print("ok: circus-top shows the processes")


def plain(endpoint):
    """A socket without libzmq around it."""
    one = socket.socket(socket.AF_UNIX)
    one.settimeout(DEADLINE_SECONDS)
    one.connect(endpoint[len("ipc://") :])
    return one


GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(48)


def ready(kind):
    name, value = b"Socket-Type", kind
    data = b"\x05READY" + bytes([len(name)]) + name + struct.pack(">I", len(value)) + value
    return b"\x04" + bytes([len(data)]) + data


def is_closed(one):
    try:
        while True:
            if not one.recv(65536):
                return True
    except ConnectionError:
        return True
    except socket.timeout:
        return False


def memory(pid):
    with open("/proc/%s/status" % pid) as status:
        return int(re.search(r"VmRSS:\s+(\d+)", status.read()).group(1))


def hostile(endpoint, events, pid):
    def alive():
        circus = CircusClient(endpoint=endpoint, timeout=DEADLINE_SECONDS)
        begun = time.monotonic()
        reply = circus.send_message("numwatchers")
        circus.stop()
        return reply["status"] == "ok" and time.monotonic() - begun

    check(alive(), "the manager answers")
    before = memory(pid)
    for wrong in [b"GET / HTTP/1.0\r\n\r\n", bytes(64), b"\xff" * 200, os.urandom(300)]:
        with plain(endpoint) as one:
            one.sendall(wrong)
            one.shutdown(socket.SHUT_WR)
            check(is_closed(one), "what is no ZeroMQ is let go")
    for power in (21, 30, 36, 62):
        with plain(endpoint) as one:
            one.sendall(GREETING + ready(b"DEALER") + b"\x02" + struct.pack(">Q", 1 << power))
            check(is_closed(one), "a frame of 2^%d bytes is refused before it comes" % power)
    with plain(endpoint) as one:
        one.sendall(GREETING + ready(b"DEALER") + b"\x01\x01x" * 40)
        check(is_closed(one), "too many parts end a connection")
    with plain(endpoint) as one:
        one.sendall(GREETING + ready(b"SUB"))
        check(is_closed(one), "a socket that does not fit is let go")
    with connected(zmq.DEALER, endpoint) as big:
        big.sndtimeo = 500
        with contextlib.suppress(zmq.Again):
            big.send(b"x" * 100_000_000)
        check(alive(), "a body of 100 MB disturbs nobody")
    quiet = [plain(endpoint) for _ in range(100)]
    for number in range(1000):
        with plain(endpoint) as one:
            request = body("status", id=number)
            sent = GREETING + ready(b"DEALER") + b"\x00" + bytes([len(request)]) + request
            one.sendall(sent[: -(number % 7) or None])
    check(alive(), "1,000 clients that vanish disturb nobody")
    for one in quiet:
        one.settimeout(DEADLINE_SECONDS)
    check(all(is_closed(one) for one in quiet), "who does not shake hands is let go")

    with plain(endpoint) as greedy:
        greedy.sendall(GREETING + ready(b"DEALER"))
        request = body("options", properties={"name": "sleeper"})
        frame = b"\x00" + bytes([len(request)]) + request
        greedy.settimeout(1)
        sent = 0
        with contextlib.suppress(socket.timeout):
            while sent < 200_000:
                greedy.sendall(frame * 100)
                sent += 100
        check(sent < 200_000, "who does not read is not read from (%d requests)" % sent)
        check(alive(), "and keeps nobody waiting")
    with connected(zmq.SUB, events) as good, plain(events) as stuck:
        good.subscribe(b"watcher.sleeper.")
        stuck.sendall(GREETING + ready(b"SUB") + b"\x00\x01\x01")
        with connected(zmq.DEALER, endpoint) as caller:
            count = 0

            def heard():
                nonlocal count
                caller.send(body("set", id=count, properties={"name": "sleeper", "options": {"graceful_timeout": 5}}))
                caller.recv()
                count += 1
                return good.poll(50)

            wait_for("an event", heard)
            check(b"watcher.sleeper.updated" == good.recv_multipart()[0], "events come to who reads")
    grown = memory(pid) - before
    check(grown < 40_000, "memory has not grown (%d kB)" % grown)


def pause(endpoint, seconds):
    """Asks without end, as plugins do, while somebody kills managers; says when it has begun and how it went."""
    asked = answered = 0
    longest = 0.0
    print("begun", flush=True)
    end = time.monotonic() + float(seconds)
    with connected(zmq.DEALER, endpoint) as one:
        one.rcvtimeo = 1000
        while time.monotonic() < end:
            begun = time.monotonic()
            asked += 1
            # A request that a killed manager had already taken is asked again, as any client has to.
            while time.monotonic() - begun < DEADLINE_SECONDS:
                one.send(body("numprocesses", id=asked))
                try:
                    while json.loads(one.recv())["id"] != asked:
                        pass
                    answered += 1
                    break
                except zmq.Again:
                    pass
            longest = max(longest, time.monotonic() - begun)
    check(asked == answered and asked > 10, "%d requests answered, the longest took %.1f s" % (answered, longest))


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
