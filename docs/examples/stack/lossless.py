"""Hooks for uWSGI: a new instance counts when its workers are ready, and an old one is paused before
it is asked to stop, because uWSGI drops what it has just accepted."""

import json
import os
import signal
import socket
import time

from circus import logger

# As in `--stats` of the watcher's cmd.
STATS = "var/uwsgi-stats-%d.sock"

# Seconds that a new instance has to load the application.
START = 60

# Seconds in which a paused worker is done with its request.
PAUSE = 10


def states(wid):
    """What the workers of one instance do, in uWSGI's words."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        connection.connect(STATS % wid)
        with connection.makefile("rb") as answer:
            return [worker["status"] for worker in json.load(answer)["workers"]]


def is_there(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until(watcher, pid, wanted, seconds):
    wid = watcher.processes[pid].wid
    deadline = time.time() + seconds
    while time.time() < deadline and is_there(pid):
        try:
            if all(state in wanted for state in states(wid)):
                return True
        except (OSError, ValueError):
            pass  # not listening yet
        time.sleep(0.05)
    return False


def started(watcher, arbiter, hook_name, pid, **kwargs):
    return wait_until(watcher, pid, ("idle", "busy"), START)


def pause(watcher, arbiter, hook_name, pid, signum, **kwargs):
    # SIGTSTP pauses and goes on by turns. Whoever called this before us may have sent one.
    for _ in range(2):
        if signum != signal.SIGQUIT or wait_until(watcher, pid, ("pause",), 0.1):
            break
        watcher.send_signal(pid, signal.SIGTSTP)
        if wait_until(watcher, pid, ("pause",), PAUSE):
            logger.info("paused %d", pid)
            break
    return True


def count_workers(watcher, arbiter, hook_name, pid, stats, **kwargs):
    stats["workers"] = len(states(watcher.processes[pid].wid))
    return True
