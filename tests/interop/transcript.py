"""Replays the raw sessions in transcripts/ against a daemon and compares every byte.

    python transcript.py papa|kingpole unix:PATH|tcp:PORT FILE...

Each line of a transcript is one step; the text after the verb is a JSON string.
    send TEXT             bytes to send
    recv TEXT             bytes that must come next, nothing less
    recv papa TEXT        ... from Papa's own daemon only
    recv kingpole TEXT    ... from ours only: where Papa has a defect, or we can do more
    send papa|kingpole    likewise
    eof                   the daemon closes the connection
    session NAME          go on in another connection (opened at its first mention; "main" is open)
    hangup                close the connection without a word
    end PID               kill -9, from outside
    ended NAME            wait until the daemon shows that this process has ended
    forgotten NAME        wait until the daemon does not show this process
    # ...                 why

In a received text {time} {pid} {port} {fd} stand for any number of that kind, {state} for True or
False, {python} for a Python class; {pid:a} must be the same wherever it stands. {tmp} is a fresh
directory, in either direction. The Rust tests replay the same files with the same rules.
"""

import json
import os
import re
import signal
import socket
import sys
import tempfile
import time

DEADLINE_SECONDS = 60
NUMBERS = {"time": r"\d+\.\d+", "pid": r"\d+", "port": r"\d+", "fd": r"\d+"}
NUMBERS.update({"state": "True|False", "python": r"[\w.]*"})


def steps(path, side):
    with open(path, encoding="utf-8") as f:
        for number, line in enumerate(f, 1):
            line = line.rstrip("\n")
            if not line or line.startswith("#"):
                continue
            verb, _, rest = line.partition(" ")
            for who in ("papa", "kingpole"):
                if rest.startswith(who + " "):
                    rest = rest[len(who) + 1 :]
                    if who != side:
                        verb = None
            if verb:
                yield number, verb, json.loads(rest) if rest.startswith('"') else rest


class Replay:
    def __init__(self, address):
        self.address = address
        self.sessions = {}
        self.bound = {}
        self.current = "main"

    def connection(self):
        if self.current not in self.sessions:
            scheme, _, rest = self.address.partition(":")
            if scheme == "unix":
                s = socket.socket(socket.AF_UNIX)
                s.connect(rest)
            else:
                s = socket.create_connection(("127.0.0.1", int(rest)))
            s.settimeout(DEADLINE_SECONDS)
            self.sessions[self.current] = [s, b""]
        return self.sessions[self.current]

    def fill(self, text):
        return re.sub(
            r"\{(\w+:\w+|tmp)\}", lambda m: self.bound.get(m.group(1), m.group(0)), text
        )

    def pattern(self, text):
        groups, out = [], ""
        for piece in re.split(r"(\{(?:%s)(?::\w+)?\})" % "|".join(NUMBERS), self.fill(text)):
            m = re.fullmatch(r"\{(\w+)(:\w+)?\}", piece)
            if m and m.group(1) in NUMBERS:
                groups.append(piece[1:-1] if m.group(2) else None)
                out += "(" + NUMBERS[m.group(1)] + ")"
            else:
                out += re.escape(piece)
        return re.compile(out.encode()), groups

    def receive(self, text):
        """None when the text came, else what came instead."""
        connection = self.connection()
        pattern, groups = self.pattern(text)
        while True:
            m = pattern.match(connection[1])
            if m:
                for name, value in zip(groups, m.groups()):
                    if name:
                        self.bound[name] = value.decode()
                connection[1] = connection[1][m.end() :]
                return None
            try:
                more = connection[0].recv(65536)
            except socket.timeout:
                return connection[1]
            if not more:
                return connection[1] + b"<end>"
            connection[1] += more

    def wait_for_listing(self, name, wanted):
        """Polls `list processes` in a connection of its own."""
        before, self.current = self.current, "poll"
        if "poll" not in self.sessions:
            self.receive('Papa is home. Type "help" for commands.\n> ')
        end = time.monotonic() + DEADLINE_SECONDS
        while True:
            connection = self.connection()
            connection[0].sendall(b"list processes %s\n" % name.encode())
            while not connection[1].endswith(b"\n> "):
                connection[1] += connection[0].recv(65536)
            listing, connection[1] = connection[1].decode(), b""
            if wanted(listing) or time.monotonic() > end:
                self.current = before
                return None if wanted(listing) else listing
            time.sleep(0.02)

    def run(self, path, side):
        with tempfile.TemporaryDirectory() as tmp:
            os.chmod(tmp, 0o755)
            self.bound["tmp"] = tmp
            for number, verb, text in steps(path, side):
                where = "%s:%d" % (path, number)
                if verb == "send":
                    self.connection()[0].sendall(self.fill(text).encode())
                elif verb == "recv":
                    got = self.receive(text)
                    if got is not None:
                        return "%s: expected %s, got %s" % (
                            where,
                            json.dumps(self.fill(text)),
                            json.dumps(got.decode(errors="replace")),
                        )
                elif verb == "eof":
                    s, left = self.connection()
                    if left or s.recv(1):
                        return "%s: expected the end, got %r" % (where, left)
                elif verb == "session":
                    self.current = text
                    self.connection()
                elif verb == "end":
                    os.kill(int(self.fill(text)), signal.SIGKILL)
                elif verb in ("ended", "forgotten"):
                    sign = " running=False " if verb == "ended" else "\n> "
                    seen = self.wait_for_listing(
                        text, lambda l: sign in l if verb == "ended" else l == sign
                    )
                    if seen:
                        return "%s: never %s: %r" % (where, verb, seen)
                elif verb == "hangup":
                    self.sessions.pop(self.current)[0].close()
                else:
                    return "%s: no such step: %s" % (where, verb)
            left = {n: s[1] for n, s in self.sessions.items() if s[1]}
            return "%s: not accounted for: %r" % (path, left) if left else None

    def close(self):
        for s, _ in self.sessions.values():
            s.close()


def main():
    side, address, failed = sys.argv[1], sys.argv[2], False
    for path in sys.argv[3:]:
        replay = Replay(address)
        problem = replay.run(path, side)
        replay.close()
        print(problem or "%s: ok" % path, flush=True)
        failed = failed or bool(problem)
    sys.exit(failed)


if __name__ == "__main__":
    main()
