"""Calls Python hooks for the manager: one process per watcher, one call at a time.

Requests and answers are lines of JSON on what were standard input and output. What hooks print
goes to standard error, which the manager copies into its log. Must run on Python 3.6 and later,
with nothing installed.
"""

import importlib
import json
import logging
import os
import signal
import sys
import time
import traceback
import types

# Nobody but this file may read requests or write answers: hooks and their children get /dev/null
# and standard error instead.
requests = os.fdopen(os.dup(0), "r", encoding="utf-8")
answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
os.dup2(2, 1)
sys.stdout = sys.stderr

TEXT_MAX = 8000


def say(message):
    answers.write(json.dumps(message) + "\n")
    answers.flush()


class ToManager(logging.Handler):
    """Log records become lines of the manager's log."""

    def emit(self, record):
        try:
            text = self.format(record)[:TEXT_MAX]
        except Exception:
            text = str(record.msg)[:TEXT_MAX]
        if record.levelno >= logging.ERROR:
            level = "error"
        elif record.levelno >= logging.WARNING:
            level = "warning"
        elif record.levelno >= logging.INFO:
            level = "info"
        else:
            level = "debug"
        say({"log": level, "text": text})


logger = logging.getLogger("circus")
logger.setLevel(logging.INFO)
logger.addHandler(ToManager())
logger.propagate = False


def provide_circus():
    """Hooks import Circus for its logger. Where it is not installed they get that much of it."""
    try:
        import circus  # noqa: F401
    except ImportError:
        module = types.ModuleType("circus")
        module.__doc__ = "The part of Circus that hooks use, provided by kingpole."
        module.logger = logger
        sys.modules["circus"] = module


class Process(object):
    """A process of a watcher as hooks see it."""

    def __init__(self, watcher, facts):
        self._watcher = watcher
        self.pid = facts["pid"]
        self.wid = facts["wid"]
        self.started = facts["started"]
        self.name = watcher.name

    def age(self):
        return time.time() - self.started

    def is_alive(self):
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        return True

    def children(self, recursive=False):
        found = []
        path = "/proc/%d/task" % self.pid
        try:
            threads = os.listdir(path)
        except OSError:
            return found
        for thread in threads:
            try:
                with open("%s/%s/children" % (path, thread)) as listing:
                    found.extend(int(pid) for pid in listing.read().split())
            except OSError:
                pass
        children = [Process(self._watcher, {"pid": pid, "wid": None, "started": self.started})
                    for pid in found]
        if recursive:
            for child in list(children):
                children.extend(child.children(recursive=True))
        return children

    def send_signal(self, signum):
        os.kill(self.pid, signum)


class Socket(object):
    """A managed socket as hooks see it: where it is, not the descriptor."""

    def __init__(self, facts):
        self.__dict__.update(facts)

    @property
    def location(self):
        return self.path if getattr(self, "path", None) else "%s:%d" % (self.host, self.port)


class Facts(object):
    """Everything that was told becomes an attribute."""

    def __init__(self, facts):
        self.__dict__.update(facts)


class Watcher(Facts):
    def __init__(self, facts, sockets):
        processes = facts.pop("processes", [])
        Facts.__init__(self, facts)
        self._options = self.options
        self.res_name = self.name.lower().replace(" ", "_")
        self.processes = {}
        for process in processes:
            self.processes[process["pid"]] = Process(self, process)
        self.sockets = sockets

    @property
    def pids(self):
        return list(self.processes)

    def get_active_processes(self):
        return [process for process in self.processes.values() if process.is_alive()]

    def status(self):
        return "active" if self.processes else "stopped"

    def is_stopped(self):
        return not self.processes

    def is_active(self):
        return bool(self.processes)

    def send_signal(self, pid, signum):
        """Straight to the process, without hooks: this may be one."""
        if pid in self.processes:
            os.kill(pid, signum)

    def call_hook(self, *args, **kwargs):
        return True


class Arbiter(Facts):
    def __init__(self, facts, watcher, sockets):
        others = facts.pop("watchers", [])
        Facts.__init__(self, facts)
        self.sockets = sockets
        self.watchers = [watcher if other["name"] == watcher.name else Watcher(other, sockets)
                         for other in others]

    def iter_watchers(self, reverse=True):
        return iter(sorted(self.watchers, key=lambda it: it.priority, reverse=reverse))

    def get_watcher(self, name):
        for watcher in self.watchers:
            if watcher.name.lower() == name.lower():
                return watcher
        raise KeyError(name)

    def numwatchers(self):
        return len(self.watchers)


def find(module, function):
    found = importlib.import_module(module)
    for name in function.split("."):
        found = getattr(found, name)
    return found


def call(request):
    # A hook that changes these for one call changes nothing for the next.
    sockets = {name: Socket(facts) for name, facts in request["sockets"].items()}
    watcher = Watcher(request["watcher"], sockets)
    arbiter = Arbiter(request["arbiter"], watcher, sockets)
    arguments = request["arguments"]
    hook = find(request["module"], request["function"])
    result = hook(watcher, arbiter, request["hook"], **arguments)
    answer = {"result": bool(result)}
    if "stats" in arguments:
        answer["stats"] = arguments["stats"]
    return answer


def last_place(error):
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return ""
    return " (%s:%s)" % (frames[-1].filename, frames[-1].lineno)


def serve():
    # Ctrl-C in a terminal is meant for the manager, which ends this by closing the input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    provide_circus()
    while True:
        line = requests.readline()
        if not line:
            return
        request = json.loads(line)
        try:
            answer = call(request)
            json.dumps(answer)
        except (Exception, SystemExit) as error:
            place = last_place(error)
            text = "%s: %s" % (type(error).__name__, error)
            answer = {"error": text[:TEXT_MAX] + place}
            logger.error("hook %s: %s", request["hook"],
                         "".join(traceback.format_exception(type(error), error,
                                                            error.__traceback__))[-TEXT_MAX:])
        say(answer)


serve()
