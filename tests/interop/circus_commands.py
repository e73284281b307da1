"""circusctl, run for every command against kingpole and against the real circusd, outputs compared.

    python circus_commands.py DIRECTORY OUR_ENDPOINT

OUR_ENDPOINT is served by a manager that runs the configuration given by `configuration(DIRECTORY)`, which the
caller wrote by calling this file with `--configuration`. circusd runs the same in DIRECTORY/circusd.
Numbers that cannot be the same (pids, times, sizes, descriptors, ports) are compared as `N`.
"""

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time

DEADLINE_SECONDS = 60

WATCHERS = """
[watcher:sleeper]
cmd = sleep 100000
numprocesses = 2
graceful_timeout = 5
flapping.window = 3

[watcher:Quick name]
cmd = sleep 100000
graceful_timeout = 5

[watcher:single]
cmd = sleep 100000
singleton = true
graceful_timeout = 5

[watcher:late]
cmd = sleep 100000
autostart = false
graceful_timeout = 5

[socket:web]
host = 127.0.0.1
port = 0

[watcher:webby]
cmd = sleep 100000
use_sockets = true
graceful_timeout = 5
"""


def configuration(directory):
    return (
        "[circus]\ncheck_delay = 0.5\n"
        "endpoint = ipc://%s/control.sock\n"
        "pubsub_endpoint = ipc://%s/events.sock\n" % (directory, directory) + WATCHERS
    )


# In this order: each begins where the one before has left off.
COMMANDS = """
status
status sleeper
status SLEEPER
status nope
--json status sleeper
list
list sleeper
list nope
--json list
numwatchers
--json numwatchers
numprocesses
numprocesses sleeper
numprocesses nope
--json numprocesses sleeper
get sleeper cmd numprocesses stop_signal graceful_timeout
get sleeper nokey
get nope cmd
--json get sleeper cmd env uid
options nope
globaloptions
globaloptions check_delay
globaloptions nope
listsockets
--json listsockets
dstats
stats sleeper
stats
stats nope
stats sleeper 1
--json stats sleeper
incr sleeper
incr sleeper 2 --waiting
--json incr sleeper 1 --waiting
decr sleeper 4 --waiting
incr single
incr nope
set sleeper numprocesses 3 --waiting
numprocesses sleeper
set sleeper numprocesses 2 --waiting
set sleeper graceful_timeout 4
get sleeper graceful_timeout
set sleeper frobnicate 1
set nope numprocesses 1
signal sleeper cont
signal sleeper SIGBOGUS
signal nope hup
signal sleeper 9999
kill sleeper
kill sleeper --signum 9
start late --waiting
status late
stop late --waiting
status late
--json stop late --waiting
stop zz* --waiting
start s* --match glob --waiting
restart sleeper --waiting
restart sle+per --match regex --waiting
start sleeper --match bogus
reload sleeper --waiting
reload sleeper --sequential --waiting
reload sleeper --terminate --waiting
reload nope --waiting
add fresh sleep 100000
status fresh
list
add fresh sleep 100000
start fresh --waiting
rm fresh
rm fresh
add --start other sleep 100000
status other
rm other
ipython
reloadconfig --waiting
frobnicate
status --timeout 2
quit
""".strip().splitlines()

# Commands whose texts are not the same, and why; their exit codes are. docs/circus-compatibility.md has the rest.
LOOSE = {
    "dstats": "each shows its own program",
    "add fresh sleep 100000": "Circus repeats the whole request in its error",
    "signal sleeper SIGBOGUS": "Circus repeats the whole request in its error",
}


def say(text):
    print("%.3f %s" % (time.time(), text), flush=True)


def circusctl(endpoint, line):
    """Exit code, standard output, standard error."""
    from circus import circusctl as program

    words, rest = ["circusctl", "--endpoint", endpoint, "--timeout", "30"], line.split()
    if rest[0] == "--json":
        words.append(rest.pop(0))
    out, err = io.StringIO(), io.StringIO()
    old = sys.argv, sys.stdin
    sys.argv, sys.stdin = words + rest, io.StringIO("")
    code = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            program.main()
    except SystemExit as end:
        code = end.code or 0
    finally:
        sys.argv, sys.stdin = old
    return code, out.getvalue(), err.getvalue()


BUSY = "arbiter is already running"


def patient(endpoint, line):
    """Circus refuses what comes while it does something else, and its housekeeping is something else."""
    end = time.monotonic() + DEADLINE_SECONDS
    while True:
        answer = circusctl(endpoint, line)
        if BUSY not in "".join(map(str, answer)) or time.monotonic() > end:
            return answer
        time.sleep(0.1)


def normal(text):
    text = re.sub(r'"id": "[0-9a-f]+"', '"id": "ID"', text)
    text = re.sub(r"ipc://\S+?(?=[\",\s])", "ENDPOINT", text)
    text = re.sub(r"\b\d[\d.:]*[BKMG]?\b", "N", text)
    return "\n".join(sorted(line.rstrip() for line in text.splitlines()))


def shape(text):
    """Keys and types of a JSON reply."""

    def of(value):
        if isinstance(value, dict):
            return {("N" if key.isdigit() else key): of(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [of(inner) for inner in value[:1]]
        return type(value).__name__

    return of(json.loads(text))


def settle(endpoint):
    """Waits until a status says what it will say from now on."""
    end = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < end:
        code, out, _ = circusctl(endpoint, "--json status")
        if code == 0 and out:
            states = json.loads(out)["statuses"].values()
            if not {"starting", "stopping"} & set(states):
                counts = circusctl(endpoint, "numprocesses sleeper")[1].strip()
                wanted = circusctl(endpoint, "get sleeper numprocesses")[1].split(":")[-1].strip()
                if counts == wanted:
                    return
        time.sleep(0.1)
    raise SystemExit("%s does not come to rest" % endpoint)


def main(directory, ours):
    theirs_directory = os.path.join(directory, "circusd")
    os.mkdir(theirs_directory)
    file = os.path.join(theirs_directory, "circus.ini")
    with open(file, "w") as f:
        f.write(configuration(theirs_directory))
    theirs = "ipc://%s/control.sock" % theirs_directory
    log = open(os.path.join(directory, "circusd.log"), "wb")
    circusd = subprocess.Popen(
        [sys.executable, "-c", "from circus.circusd import main; main()", file],
        stdout=log,
        stderr=log,
        cwd=theirs_directory,
        stdin=subprocess.DEVNULL,
    )
    wrong = []
    try:
        end = time.monotonic() + DEADLINE_SECONDS
        while circusctl(theirs, "numwatchers")[0] != 0:
            if circusd.poll() is not None or time.monotonic() > end:
                raise SystemExit("circusd does not answer")
            time.sleep(0.1)
        settle(theirs)
        settle(ours)
        for line in COMMANDS:
            answers = [patient(endpoint, line) for endpoint in (theirs, ours)]
            codes = [answer[0] for answer in answers]
            if line.startswith("--json"):
                shown = [shape(out) for _, out, _ in answers]
            else:
                shown = [(normal(out), normal(err)) for _, out, err in answers]
            same = codes[0] == codes[1] and (shown[0] == shown[1] or line in LOOSE)
            if not same:
                wrong.append(line)
                say("%s\n  circusd:  %r\n  kingpole: %r" % (line, answers[0], answers[1]))
            elif line != "quit":
                for endpoint in (theirs, ours):
                    settle(endpoint)
        say("%d commands, %d differ" % (len(COMMANDS), len(wrong)))
    finally:
        try:
            circusd.wait(30)
        except subprocess.TimeoutExpired:
            circusd.send_signal(signal.SIGKILL)
            circusd.wait()
    return 1 if wrong else 0


if __name__ == "__main__":
    if sys.argv[1] == "--configuration":
        sys.stdout.write(configuration(sys.argv[2]))
    else:
        sys.exit(main(sys.argv[1], sys.argv[2]))
