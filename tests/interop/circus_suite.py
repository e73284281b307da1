"""Runs Circus's own test suite, as its package on PyPI has it, against managers of ours.

    python circus_suite.py KINGPOLE DIRECTORY [TEST...]

Its tests make an arbiter in their own process (`support.TestCircus`) and talk with it over its endpoint. Here
that arbiter is a stand-in: it writes what it was given into an INI, runs `KINGPOLE run` on it, and answers
what tests ask of an arbiter by asking the manager. What a test looks up inside Circus's own objects cannot be
answered; those tests are left out, by name and with the reason. Modules without an arbiter test Circus alone.
"""

import collections
import importlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time
import unittest

import psutil
import tornado.gen
from circus import stream as circus_stream
from circus.client import AsyncCircusClient, CircusClient
from circus.tests import support

# The tests measure with sleeps of tenths of seconds, so a busy machine may fail any of them once.
TRIES_MAX = 5
START_SECONDS = 60
MODULES = [
    "test_arbiter",
    "test_circusctl",
    "test_client",
    "test_command_kill",
    "test_command_signal",
    "test_papa_stream",
    "test_plugin_resource_watcher",
    "test_plugin_watchdog",
    "test_stats_client",
    "test_stdin_socket",
    "test_stream",
    "test_umask",
    "test_watcher",
]

OBJECT = "it asks Circus's objects, no manager"
LEFT_OUT = {
    "TestArbiter": OBJECT,
    "TestCircusWeb": OBJECT,
    "TestTrainer._test_stop": "Circus does not run it either",
    "TestTrainer.test_rm_watcher_nostop": "it waits for a child of the arbiter's as for one of its own",
    "CommandlineTest.test_command_already_running": "commands wait for each other instead of failing",
    "TestWatcherHooks.test_missing_hook": "hooks are imported when they are called first",
    "TestWatcherInitialization": OBJECT,
    "RespawnTest": OBJECT,
    "TestFancyStdoutStream": OBJECT,
    "TestFileStream": OBJECT,
    "TestWatcher.test_unexisting": OBJECT,
    "TestWatcher.test_arbiter_reference": OBJECT,
    "TestWatcher.test_stop_and_restart": OBJECT,
}


# These write a word and no line, and look for just that; a FileStream ends it, as Circus's does.
NO_LINES = ["circus.tests.test_stdin_socket.run_process", "circus.tests.test_umask.run_process"]


class Follower(threading.Thread):
    """Puts what is written to a file into the queue that a test reads its stream from."""

    def __init__(self, path, target, lines):
        super().__init__(daemon=True)
        self.path, self.target, self.lines = path, target, lines
        self.over = threading.Event()

    def run(self):
        position = 0
        while not self.over.wait(0.02):
            with open(self.path, "rb") as file:
                file.seek(position)
                data = file.read()
            position += len(data)
            if data:
                data = data if self.lines else data.rstrip(b"\n")
                self.target.put({"data": data, "pid": 0, "name": "stdout"})


# What the manager calls for each hook of a test.
HOOK = """
import json, socket

def hook(watcher, arbiter, hook_name, **arguments):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(%r)
        connection.sendall(json.dumps([hook_name, arguments]).encode() + b"\\n")
        answer = json.loads(connection.makefile().readline())
    if "error" in answer:
        raise Exception(answer["error"])
    return answer["result"]
"""


class Hooks(threading.Thread):
    """Calls the hooks of a test, functions inside of it, when the manager calls them."""

    def __init__(self, arbiter, hooks):
        super().__init__(daemon=True)
        self.arbiter = arbiter
        self.hooks = {name: resolve(hook) for name, (hook, _) in hooks.items()}
        path = str(arbiter.place / "hooks.sock")
        (arbiter.place / "suite_hooks.py").write_text(HOOK % path)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen()

    def run(self):
        while True:
            connection, _ = self.listener.accept()
            with connection, connection.makefile() as lines:
                name, arguments = json.loads(lines.readline())
                try:
                    result = self.hooks[name](Watcher(self.arbiter, "test"), self.arbiter, name, **arguments)
                    answer = {"result": result}
                except Exception as error:
                    answer = {"error": repr(error)}
                connection.sendall(json.dumps(answer).encode() + b"\n")


def resolve(hook):
    if callable(hook):
        return hook
    module, _, name = hook.rpartition(".")
    return getattr(importlib.import_module(module), name)


class Watcher:
    """What tests ask of one of an arbiter's watchers."""

    def __init__(self, arbiter, name):
        self.arbiter, self.name = arbiter, name

    def status(self):
        return self.arbiter.ask("status", name=self.name)["status"]


class Arbiter:
    """A manager of ours in the place of Circus's arbiter."""

    kingpole = directory = None
    count = 0
    _exclusive_running_command = None

    def __init__(self, watchers, plugins=None, **options):
        Arbiter.count += 1
        self.place = Arbiter.directory / str(Arbiter.count)
        self.place.mkdir()
        self.endpoint = options["controller"]
        self.pubsub_endpoint = options["pubsub_endpoint"]
        self.stats_endpoint = options.get("stats_endpoint")
        self.umask = options.get("umask")
        self.sockets = options.pop("sockets", [])
        self.plugins = plugins or []
        self.followers = []
        self.hooks = None
        self.process = None
        self.text = "\n".join(
            self.general(options)
            + [line for watcher in watchers for line in self.section(**watcher)]
            + [line for number, plugin in enumerate(self.plugins) for line in self.plugin(number, **plugin)]
            + [line for held in self.sockets for line in self.socket(held)]
        )

    @property
    def running(self):
        return self.process is not None

    def general(self, options):
        names = {"controller": "endpoint", "pubsub_endpoint": "pubsub_endpoint", "stats_endpoint": "stats_endpoint"}
        lines = ["[circus]", "check_delay = 0.1"]
        lines += ["%s = %s" % (ours, options[theirs]) for theirs, ours in names.items() if theirs in options]
        if options.get("statsd"):
            lines += ["statsd = True"]
        if self.umask is not None:
            lines += ["umask = %o" % self.umask]
        return lines + [""]

    def section(self, name, cmd, args, **options):
        lines = ["[watcher:%s]" % name, "cmd = %s" % cmd, "args = %s" % " ".join(args)]
        # The interpreter finds Circus by its own path, and its tests with it.
        lines += ["copy_env = True"]
        for key, value in options.items():
            if key in ("loop", "debug", "check_delay"):
                continue
            if key in ("stdout_stream", "stderr_stream"):
                lines += self.stream(key, value, args[1] not in NO_LINES)
            elif key == "hooks":
                self.hooks = Hooks(self, value)
                lines += ["hooks.%s = suite_hooks.hook, %s" % (hook, value[hook][1]) for hook in value]
            elif isinstance(value, signal.Signals):
                lines += ["%s = %s" % (key, value.name)]
            else:
                lines += ["%s = %s" % (key, value)]
        return lines + [""]

    def stream(self, key, value, lines):
        if not value:
            return []
        stream = value["stream"]
        if isinstance(stream, circus_stream.QueueStream):
            known = [follower for follower in self.followers if follower.target is stream]
            if not known:
                path = self.place / key
                path.touch()
                known = [Follower(path, stream, lines)]
                self.followers += known
            path = known[0].path
        else:
            path = stream._filename
        return ["%s.class = FileStream" % key, "%s.filename = %s" % (key, path)]

    @staticmethod
    def plugin(number, use, **options):
        lines = ["[plugin:plugin%d]" % number, "use = %s" % use, "python = %s" % sys.executable]
        return lines + ["%s = %s" % item for item in options.items()] + [""]

    @staticmethod
    def socket(held):
        return ["[socket:%s]" % held.name, "host = %s" % held.host, "port = %d" % held.port, ""]

    @tornado.gen.coroutine
    def start(self):
        configuration = self.place / "circus.ini"
        configuration.write_text(self.text)
        environment = dict(os.environ, PYTHONPATH=os.pathsep.join([str(self.place), *filter(None, sys.path)]))
        self.process = subprocess.Popen(
            [self.kingpole, "run", "--runtime-dir", str(self.place / "run"), str(configuration)],
            stdin=subprocess.DEVNULL,
            stdout=open(self.place / "log", "w"),
            stderr=subprocess.STDOUT,
            env=environment,
        )
        for thread in self.followers + [self.hooks] if self.hooks else self.followers:
            thread.start()
        end = time.monotonic() + START_SECONDS
        while "children adopted" not in self.log() and self.process.poll() is None and time.monotonic() < end:
            yield tornado.gen.sleep(0.02)
        if self.process.poll() is not None:
            self.process = None
            raise RuntimeError("the manager has ended: %s" % self.log())
        # A test goes on when its plugin is there, which is before it listens.
        while self.subscribers() < len(self.plugins) and time.monotonic() < end:
            yield tornado.gen.sleep(0.02)
        for wanted in self.sockets:
            found = self.ask("listsockets")["sockets"]
            held = next(held for held in found if held["name"] == wanted.name)
            wanted.host, wanted.port = held["host"], held["port"]

    def subscribers(self):
        port = int(self.pubsub_endpoint.rpartition(":")[2])
        connections = psutil.Process(self.process.pid).net_connections("tcp")
        return sum(c.laddr.port == port and c.status == psutil.CONN_ESTABLISHED for c in connections)

    def log(self):
        return (self.place / "log").read_text(errors="replace")

    def ask(self, command, **properties):
        client = CircusClient(endpoint=self.endpoint)
        try:
            return client.send_message(command, **properties)
        finally:
            client.stop()

    @tornado.gen.coroutine
    def call(self, command, **properties):
        client = AsyncCircusClient(endpoint=self.endpoint)
        try:
            answer = yield client.send_message(command, **properties)
        finally:
            client.stop()
        raise tornado.gen.Return(answer)

    @property
    def watchers(self):
        if not self.running:
            return []
        return [Watcher(self, name) for name in self.ask("list")["watchers"]]

    def iter_watchers(self):
        return iter(self.watchers)

    def rm_watcher(self, name):
        return self.call("rm", name=name, waiting=True)

    def restart(self):
        return self.call("restart", waiting=True)

    @tornado.gen.coroutine
    def _emergency_stop(self):
        self.stop()

    def stop(self):
        for follower in self.followers:
            follower.over.set()
        if self.process is not None:
            # As a person at the terminal: the kernel ends too.
            self.process.send_signal(signal.SIGINT)
            self.process.wait(START_SECONDS)
            self.process = None
        done = tornado.gen.Future()
        done.set_result(None)
        return done


def tell_statistics(client):
    """Circus lists the process that makes its statistics; with us it is the manager, which lists nothing."""
    call = client.call

    @tornado.gen.coroutine
    def told(self, command):
        answer = yield call(self, command)
        properties = command["properties"]
        if any(arbiter.stats_endpoint for arbiter in support.TestCircus.arbiters if arbiter.running):
            if command["command"] == "list" and "name" not in properties:
                answer["watchers"].append("circusd-stats")
            if command["command"] == "status" and properties.get("name") == "circusd-stats":
                answer = {"status": "active"}
        raise tornado.gen.Return(answer)

    client.call = told


def left_out(test):
    group = type(test).__name__
    return LEFT_OUT.get(group) or LEFT_OUT.get("%s.%s" % (group, test._testMethodName))


def attempt(test):
    """Runs a test once; what it says if it fails."""
    result = unittest.TestResult()
    type(test)(test._testMethodName).run(result)
    if result.skipped:
        return None, result.skipped[0][1]
    texts = [text for _, text in result.failures + result.errors]
    return texts, None


def main():
    Arbiter.kingpole, Arbiter.directory = sys.argv[1], pathlib.Path(sys.argv[2])
    chosen = sys.argv[3:]
    support.TestCircus.arbiter_factory = Arbiter
    tell_statistics(AsyncCircusClient)
    counts = collections.Counter()
    failed = []
    for name in MODULES:
        module = importlib.import_module("circus.tests.%s" % name)
        for test in (t for group in unittest.defaultTestLoader.loadTestsFromModule(module) for t in group):
            title = "%s.%s.%s" % (name, type(test).__name__, test._testMethodName)
            if chosen and not any(part in title for part in chosen):
                continue
            why = left_out(test)
            failures = []
            while why is None and len(failures) < TRIES_MAX:
                texts, why = attempt(test)
                if not texts:
                    break
                failures.append("\n".join(texts))
            if why:
                print("left out: %s: %s" % (title, why))
            elif len(failures) == TRIES_MAX:
                failed.append(title)
                print("FAILED: %s\n%s" % (title, failures[-1]))
                print((Arbiter.directory / str(Arbiter.count) / "log").read_text())
            else:
                counts["passed"] += 1
                print("ok: %s%s" % (title, ", at try %d" % (len(failures) + 1) if failures else ""))
            sys.stdout.flush()
    print("%d passed, %d failed" % (counts["passed"], len(failed)))
    raise SystemExit(bool(failed))


main()
