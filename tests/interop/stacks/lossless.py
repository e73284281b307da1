"""Hooks for a lossless reload of uWSGI: a new instance counts when its workers are ready, and an old
one is paused before it is asked to stop."""

import json
import os
import signal
import socket
import time

from circus import logger

PATIENCE = 60


def states(watcher, wid):
    """What the workers of one instance do, in uWSGI's words."""
    path = os.path.join(watcher._options["stats_directory"], "stats-%d" % wid)
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(path)
        text = b""
        while True:
            part = connection.recv(65536)
            if not part:
                break
            text += part
    finally:
        connection.close()
    return [worker["status"] for worker in json.loads(text.decode())["workers"]]


def wait_until(watcher, wid, wanted):
    deadline = time.time() + PATIENCE
    while time.time() < deadline:
        try:
            if all(state in wanted for state in states(watcher, wid)):
                return True
        except (OSError, ValueError):
            pass
        time.sleep(0.05)
    return False


def started(watcher, arbiter, hook_name, pid, **kwargs):
    return wait_until(watcher, watcher.processes[pid].wid, ("idle", "busy"))


def pause(watcher, arbiter, hook_name, pid, signum, **kwargs):
    if signum == signal.SIGQUIT and len(watcher.processes) > watcher.numprocesses:
        watcher.send_signal(pid, signal.SIGTSTP)
        if wait_until(watcher, watcher.processes[pid].wid, ("pause",)):
            logger.info("paused %d", pid)
    return True


def count_workers(watcher, arbiter, hook_name, pid, stats, **kwargs):
    stats["workers"] = len(states(watcher, watcher.processes[pid].wid))
    return True
