"""Runs the real Circus 0.17.2 with `use_papa` against a daemon that speaks Papa's protocol.

    python circus_recovery.py unix:/path/to/socket | tcp:PORT

Circus starts two processes, is told to quit, and is started again. The processes must live on in
the daemon under their pids; every line they wrote must be in the log, those of the time between
with the time at which they were written. A server on a listening socket is kept in the daemon too.

With tcp:20202, Papa's own port, Circus is started as everybody starts it. Its `papa_endpoint` option
has no effect on what it does first, so for other addresses the package's own default is set before
Circus's `main` is called.
"""

import os
import re
import socket
import subprocess
import sys
import tempfile
import time

DEADLINE_SECONDS = 120
CHILD = """
i=0
while :; do i=$((i+1)); echo tick $$ $i; sleep 0.1; done
"""
INI = """
[circus]
endpoint = ipc://{tmp}/control.sock
pubsub_endpoint = ipc://{tmp}/events.sock
check_delay = 1
statsd = false

[watcher:tick]
cmd = /bin/sh {tmp}/child.sh
numprocesses = 2
use_papa = true
copy_env = true
graceful_timeout = 2
stdout_stream.class = FileStream
stdout_stream.filename = {tmp}/tick.log
stdout_stream.time_format = @%s.%f@
[socket:web]
host = 127.0.0.1
port = 0
use_papa = true

[watcher:web]
cmd = {python} {tmp}/server.py $(circus.sockets.web)
numprocesses = 1
use_papa = true
copy_env = true
"""
LAUNCHER = """
import sys
import papa
papa.set_default_{kind}({place!r})
from circus.circusd import main
main()
"""
SERVER = """
import os, socket, sys
s = socket.socket(fileno=int(sys.argv[1]))
s.setblocking(True)
while True:
    c = s.accept()[0]
    c.sendall(str(os.getpid()).encode())
    c.close()
"""


def say(text):
    print("%.3f %s" % (time.time(), text), flush=True)


class Failed(Exception):
    pass


def wait_for(what, probe, deadline=DEADLINE_SECONDS):
    end = time.monotonic() + deadline
    while True:
        seen = probe()
        if seen:
            return seen
        if time.monotonic() > end:
            raise Failed("waited %d s for %s" % (deadline, what))
        time.sleep(0.05)


class Circus:
    def __init__(self, tmp, program):
        self.tmp = tmp
        self.program = program
        self.log = os.path.join(tmp, "circusd.log")
        self.circusd = None

    def start(self):
        with open(self.log, "ab") as log:
            self.circusd = subprocess.Popen(
                [sys.executable] + self.program + [os.path.join(self.tmp, "circus.ini")],
                stdout=log,
                stderr=log,
                cwd=self.tmp,
            )
        say("circusd is pid %d" % self.circusd.pid)
        wait_for("circusctl to be answered", lambda: self.control("numwatchers"))

    def control(self, *words):
        done = subprocess.run(
            [sys.executable, "-m", "circus.circusctl", "--timeout", "20"]
            + ["--endpoint", "ipc://%s/control.sock" % self.tmp]
            + list(words),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            universal_newlines=True,
        )
        if self.circusd.poll() is not None and words[0] != "quit":
            raise Failed("circusd ended: status %d" % self.circusd.returncode)
        return done.stdout.strip() if done.returncode == 0 else None

    def pids(self, watcher="tick"):
        listed = self.control("list", watcher) or ""
        return sorted(int(word) for word in re.findall(r"\d+", listed))

    def quit(self):
        """Circus refuses a command while it is busy with something else, so it is told again."""

        def has_ended():
            self.control("quit")
            try:
                self.circusd.wait(5)
            except subprocess.TimeoutExpired:
                return False
            return True

        wait_for("circusd to quit", has_ended)

    def lines(self):
        """{pid: {number: first time written}} of the log."""
        found = {}
        try:
            with open(os.path.join(self.tmp, "tick.log"), errors="replace") as f:
                for line in f:
                    m = re.search(r"@(\d+\.\d+)@.*tick (\d+) (\d+)", line)
                    if m:
                        when, pid, number = float(m.group(1)), int(m.group(2)), int(m.group(3))
                        found.setdefault(pid, {}).setdefault(number, when)
        except FileNotFoundError:
            pass
        return found


def alive(pid):
    try:
        os.kill(pid, 0)
        return True
    except ProcessLookupError:
        return False


def check(truth, text):
    if not truth:
        raise Failed(text)
    say("ok: " + text)


def ask(port):
    with socket.create_connection(("127.0.0.1", port), DEADLINE_SECONDS) as c:
        c.settimeout(DEADLINE_SECONDS)
        return int(c.recv(100))


def scenario(circus):
    circus.start()
    pids = wait_for("two processes", lambda: len(circus.pids()) == 2 and circus.pids())
    wait_for(
        "lines of both in the log",
        lambda: all(len(circus.lines().get(pid, {})) >= 5 for pid in pids),
    )
    listed = wait_for("the socket", lambda: circus.control("listsockets"))
    port = int(re.search(r":(\d+)", listed).group(1))
    web = ask(port)
    circus.quit()
    left = time.time()
    check(all(alive(pid) for pid in pids), "the processes outlive circusd")
    check(ask(port) == web, "the server goes on serving on the same socket")

    # The time between: it is what this is about, so it has to pass.
    time.sleep(3)
    back = time.time()
    circus.start()
    check(
        wait_for("two processes", lambda: len(circus.pids()) == 2 and circus.pids()) == pids,
        "a new circusd has the processes under their pids",
    )
    check(ask(port) == web, "the server still serves on the same socket")

    def caught_up():
        lines = circus.lines()
        return all(max(lines[pid].values()) > back + 1 for pid in pids) and lines

    lines = wait_for("lines that are newer than the restart", caught_up)
    for pid in pids:
        numbers = sorted(lines[pid])
        check(
            numbers == list(range(1, numbers[-1] + 1)),
            "no line of %d is missing (%d lines)" % (pid, len(numbers)),
        )
        between = [t for t in lines[pid].values() if left + 0.3 < t < back - 0.3]
        check(len(between) >= 3, "%d lines carry times of the time between" % len(between))

    def stopped():
        if any(alive(pid) for pid in pids):
            circus.control("stop")
        return not any(alive(pid) for pid in pids)

    wait_for("the processes to end", stopped)
    say("ok: stop ends them")
    circus.quit()


def main(address):
    scheme, _, rest = address.partition(":")
    if scheme == "unix":
        launcher = LAUNCHER.format(kind="path", place=rest)
    elif scheme == "tcp" and rest == "20202":
        launcher = None
    elif scheme == "tcp":
        launcher = LAUNCHER.format(kind="port", place=int(rest))
    else:
        raise SystemExit(__doc__)
    program = ["-c", launcher] if launcher else ["-m", "circus.circusd"]
    with tempfile.TemporaryDirectory() as tmp:
        with open(os.path.join(tmp, "child.sh"), "w") as f:
            f.write(CHILD)
        with open(os.path.join(tmp, "server.py"), "w") as f:
            f.write(SERVER)
        with open(os.path.join(tmp, "circus.ini"), "w") as f:
            f.write(INI.format(tmp=tmp, python=sys.executable))
        circus = Circus(tmp, program)
        try:
            scenario(circus)
        except Failed as failure:
            say("FAILED: %s" % failure)
            with open(circus.log) as log:
                sys.stdout.write(log.read()[-6000:])
            sys.exit(1)
        finally:
            if circus.circusd and circus.circusd.poll() is None:
                circus.circusd.kill()
                circus.circusd.wait()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(sys.argv[1])
