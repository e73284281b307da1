"""The same configuration under the real circusd and under kingpole, both given the same commands one by one;
events, replies and states are compared after each.

    python differential.py --configuration DIRECTORY
    python differential.py DIRECTORY DOCUMENT

The first form prints the configuration that the caller runs a manager with. The second runs circusd with the same
below DIRECTORY/circusd, and everything that differs has to stand in the table of DOCUMENT between the lines
`<!-- table differential -->` and `<!-- end -->`, word for word; what stands there and does not differ is wrong
too.

Nothing here depends on how long things take: after each command both sides are waited for until nothing is on the way,
and then until an event of a watcher that exists for nothing else has come, which all earlier events precede.
"""

import collections
import json
import os
import signal
import socket
import subprocess
import sys
import time

import zmq

DEADLINE_SECONDS = 90
NOTICES_SECONDS = 60
HERE = os.path.dirname(os.path.abspath(__file__))

# Says with a file that its traps are set; ends with a status when asked to.
OBEDIENT = r"""sh -c 'trap "exit 3" USR1; trap "exit 0" USR2; trap "" HUP; : >ready.$$; while :; do sleep 0.05; done'"""
STUBBORN = r"""sh -c 'trap "" TERM; : >ready.$$; exec sleep 100000'"""
# Its child ends first, so that there is one to be signalled.
FAMILY = r"""sh -c 'trap : TERM; sleep 100000 & : >ready.$$; while kill -0 $! 2>&-; do wait; done; exit 0'"""

PROCESS = "%s %s" % (sys.executable, os.path.join(HERE, "differential_process.py"))

WATCHERS = r"""
[socket:knock]
path = %(directory)s/knock.sock

[watcher:demand]
cmd = %(process)s serve $(circus.sockets.knock)
use_sockets = true
on_demand = true
priority = 10

[watcher:plain]
cmd = %(process)s look plain
autostart = false

[watcher:limited]
cmd = %(process)s look limited
rlimit_core = 0
rlimit_fsize =
rlimit_stack = 8388608
autostart = false

[watcher:listening]
cmd = %(process)s look listening $(circus.sockets.knock)
use_sockets = true
autostart = false

[watcher:reading]
cmd = %(process)s look reading
stdin_socket = knock
autostart = false

[watcher:fence]
cmd = sleep 100000

[watcher:pair]
cmd = sleep 100000
numprocesses = 2
autostart = false

[watcher:one]
cmd = %(obedient)s
autostart = false

[watcher:once]
cmd = %(obedient)s
respawn = false
autostart = false

[watcher:missing]
cmd = /nonexistent/program
max_retry = 2
autostart = false

[watcher:stubborn]
cmd = %(stubborn)s
graceful_timeout = 0.5
autostart = false

[watcher:family]
cmd = %(family)s
stop_children = true
autostart = false

[watcher:aged]
cmd = sleep 100000
max_age = 1
max_age_variance = 0
autostart = false

[watcher:single]
cmd = sleep 100000
singleton = true
autostart = false

[watcher:hup]
cmd = %(obedient)s
send_hup = true
autostart = false

[watcher:none]
cmd = sleep 100000
numprocesses = 0
autostart = false

[watcher:crashing]
cmd = sh -c 'exit 1'
autostart = false
flapping.attempts = 1
flapping.retry_in = 0.5
flapping.max_retry = -1

[watcher:last]
cmd = sleep 100000
priority = 1

[watcher:first]
cmd = sleep 100000
priority = 9

[watcher:middlest]
cmd = sleep 100000
priority = 5

[watcher:Two Words]
cmd = sleep 100000
autostart = false

[watcher:dot.ted]
cmd = sleep 100000
autostart = false

[watcher:hooked]
cmd = sleep 100000
autostart = false
hooks.before_start = differential_hooks.says_yes
hooks.after_start = differential_hooks.says_yes
hooks.before_spawn = differential_hooks.says_yes
hooks.after_spawn = differential_hooks.says_yes
hooks.before_stop = differential_hooks.says_yes
hooks.after_stop = differential_hooks.says_yes
hooks.before_signal = differential_hooks.says_yes
hooks.after_signal = differential_hooks.says_yes
hooks.before_reap = differential_hooks.says_yes
hooks.after_reap = differential_hooks.says_yes
hooks.extended_stats = differential_hooks.extends

[watcher:no.before_start]
cmd = sleep 100000
autostart = false
hooks.before_start = differential_hooks.says_no

[watcher:no.after_start]
cmd = sleep 100000
autostart = false
hooks.after_start = differential_hooks.says_no

[watcher:no.before_spawn]
cmd = sleep 100000
autostart = false
hooks.before_spawn = differential_hooks.says_no

[watcher:no.after_spawn]
cmd = sleep 100000
autostart = false
hooks.after_spawn = differential_hooks.says_no

[watcher:no.before_signal]
cmd = sleep 100000
graceful_timeout = 0.5
autostart = false
hooks.before_signal = differential_hooks.says_no

[watcher:bad.before_start]
cmd = sleep 100000
autostart = false
hooks.before_start = differential_hooks.fails

[watcher:bad.but.ignored]
cmd = sleep 100000
autostart = false
hooks.before_start = differential_hooks.fails, true
hooks.after_spawn = differential_hooks.fails, true
hooks.before_stop = differential_hooks.fails
hooks.after_stop = differential_hooks.fails
"""


# So many attempts that it has nothing to say but where a watcher asks for it.
PLUGIN = """
[plugin:flapping]
use = circus.plugins.flapping.Flapping
attempts = 1000
"""


def configuration(directory):
    watchers = WATCHERS % {
        "obedient": OBEDIENT,
        "stubborn": STUBBORN,
        "family": FAMILY,
        "process": PROCESS,
        "directory": directory,
    }
    return (
        "[circus]\ncheck_delay = 0.2\n"
        "endpoint = ipc://%s/control.sock\n"
        "pubsub_endpoint = ipc://%s/events.sock\n"
        "[env]\nPATH = /usr/local/bin:/usr/bin:/bin\n" % (directory, directory) + PLUGIN + watchers
    )


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

# What Circus answers when it does something else, its housekeeping for example; it is asked again.
BUSY = "already running"


class Side:
    """A manager, and what it has published."""

    def __init__(self, name, directory):
        self.name = name
        self.directory = directory
        self.file = os.path.join(directory, "circus.ini")
        self.control = context.socket(zmq.DEALER)
        self.control.linger = 0
        self.control.connect("ipc://%s/control.sock" % directory)
        self.events = context.socket(zmq.SUB)
        self.events.linger = 0
        self.events.subscribe(b"watcher.")
        self.events.connect("ipc://%s/events.sock" % directory)
        self.number = 0
        self.heard = []
        self.fence_at = 0
        self.keys = {}
        # Ends that somebody from outside has caused in this step, by pid, and how others end.
        self.ended = {}
        self.usual_end = -15
        self.state = {}

    def ask(self, command, **properties):
        """One reply, whatever it says."""
        self.number += 1
        request = {"command": command, "id": self.number, "properties": properties}
        self.control.send(json.dumps(request).encode())
        end = time.monotonic() + DEADLINE_SECONDS
        while self.control.poll(max(0, end - time.monotonic()) * 1000):
            reply = json.loads(self.control.recv())
            if reply["id"] == self.number:
                return reply
        raise SystemExit("FAILED: %s does not answer %s" % (self.name, request))

    def call(self, command, **properties):
        """The reply, when the manager is free to give it."""
        return wait_for(
            "%s to be free for %s" % (self.name, command),
            lambda: (lambda reply: None if BUSY in reply.get("reason", "") else reply)(
                self.ask(command, **properties)
            ),
        )

    def pids(self, watcher):
        return self.ask("list", name=watcher).get("pids", [])

    def hear(self, patience):
        """Takes what was published until nothing comes for so many milliseconds, or something of the fence, which is
        given back."""
        while self.events.poll(patience):
            topic, payload = self.events.recv_multipart()
            watcher, action = topic.decode().split(".", 1)[1].rsplit(".", 1)
            if watcher == "fence":
                return action
            # A process of circusd, a part of kingpole.
            if watcher != "plugin:flapping":
                self.heard.append((watcher, action, json.loads(payload)))
        return None

    def move_fence(self):
        self.fence_at = self.fence_at % 7 + 1
        self.call("set", name="fence", options={"graceful_timeout": self.fence_at}, waiting=True)

    def listen(self):
        """Waits until events come. Those before are lost, as always with such sockets."""

        def heard():
            self.move_fence()
            return self.hear(200)

        wait_for("events of %s" % self.name, heard)
        # Of those that were on their way, this is the last.
        self.call("incr", name="fence", waiting=True)
        wait_for("%s to publish" % self.name, lambda: self.hear(1000) == "spawn")
        self.settle()
        self.heard = []

    def fence(self):
        """Waits until all has come that was published before."""
        self.move_fence()
        wait_for("%s to publish" % self.name, lambda: self.hear(1000) == "updated")

    def settled(self):
        statuses = self.ask("status")["statuses"]
        # A process of circusd, a part of kingpole.
        statuses.pop("plugin:flapping", None)
        if {"starting", "stopping"} & set(statuses.values()):
            return None
        state = {}
        for name, status in statuses.items():
            count = len(self.pids(name))
            wanted = self.ask("get", name=name, keys=["numprocesses"])["options"]["numprocesses"]
            if count != (wanted if status == "active" else 0):
                return None
            state[name] = "%s, %d of %d" % (status, count, wanted)
        return state

    def settle(self):
        return wait_for("%s to come to rest" % self.name, self.settled)

    def wait_gone(self, watcher, pids):
        wait_for("%s to see the end of %s" % (self.name, pids), lambda: not set(pids) & set(self.pids(watcher)))

    def wait_ready(self, watcher):
        """Until the traps of its processes are set."""

        def ready():
            pids = self.pids(watcher)
            return pids and all(os.path.exists(os.path.join(self.directory, "ready.%d" % pid)) for pid in pids)

        wait_for("%s of %s to be ready" % (watcher, self.name), ready)

    def wait_for_state(self, watcher, status):
        wait_for(
            "%s of %s to be %s" % (watcher, self.name, status),
            lambda: self.ask("status", name=watcher).get("status") == status,
        )

    def text(self):
        with open(self.file) as file:
            return file.read()


# Steps. Each is done to one side, which is waited for afterwards.


def command(verb, **properties):
    return lambda side: side.call(verb, **dict({"waiting": True}, **properties))


def start(name):
    """Starts it, and waits for its traps where it has some."""

    def step(side):
        reply = side.call("start", name=name, waiting=True)
        if name in ("one", "once", "stubborn", "family", "hup"):
            side.wait_ready(name)
        return reply

    return step


def signal_from_outside(name, signum, which=slice(0, 1)):
    """Somebody ends a process behind the manager's back."""

    def step(side):
        pids = side.pids(name)[which]
        side.ended = {pid: {signal.SIGUSR1: 3, signal.SIGUSR2: 0}.get(signum, -signum) for pid in pids}
        for pid in pids:
            os.kill(pid, signum)
        side.wait_gone(name, pids)

    return step


def kill_one(**properties):
    """The kill command for the first of the pair's processes."""

    def step(side):
        pid = side.pids("pair")[0]
        side.usual_end = -properties.get("signum", 15)
        reply = side.call("kill", name="pair", pid=pid, waiting=True, **properties)
        side.wait_gone("pair", [pid])
        return reply

    return step


def signal_that_ends(name):
    def step(side):
        pids = side.pids(name)
        side.ended = {pid: -9 for pid in pids}
        reply = side.call("signal", name=name, signum="kill")
        side.wait_gone(name, pids)
        return reply

    return step


def flapping(side):
    """Until it was stopped for a while because it ends again and again; nobody can say after how many ends."""
    side.call("start", name="crashing")

    def stopped_for_a_while():
        side.hear(10)
        told = [action for watcher, action, _ in side.heard if watcher == "crashing"]
        return "start" in told[told.index("stop") :] if "stop" in told else False

    wait_for("the flapping of %s" % side.name, stopped_for_a_while)
    # circusd's plugin would start it again later.
    reply = side.call("rm", name="crashing", waiting=True)
    side.settle()
    side.fence()
    side.heard = []
    return reply


def aged(side):
    """Until three processes have grown too old."""
    side.call("start", name="aged", waiting=True)
    seen = set()

    def grown():
        seen.update(side.pids("aged"))
        return len(seen) >= 4

    wait_for("processes of %s to grow old" % side.name, grown)
    return side.call("stop", name="aged", waiting=True)


def extended_stats(side):
    reply = side.call("stats", name="hooked", extended=True)
    for info in reply["info"].values():
        reply.update({"extended " + key: info.get(key) for key in ("requests", "of")})
    return reply


def edit(old, new):
    """reloadconfig, after the file was edited."""

    def step(side):
        path, text = side.file, side.text()
        assert old in text, old
        # In one step: a manager never sees half a file.
        with open(path + ".new", "w") as file:
            file.write(text.replace(old, new))
        os.rename(path + ".new", path)
        return side.call("reloadconfig", waiting=True)

    return step


def append(section):
    return lambda side: edit(side.text(), side.text() + section)(side)


def what_it_gets(name):
    """Starts a watcher whose process says what it was given."""

    def step(side):
        path = os.path.join(side.directory, "look." + name)
        reply = side.call("start", name=name, waiting=True)

        def seen():
            if os.path.exists(path):
                with open(path) as file:
                    return json.load(file)

        found = wait_for("%s of %s to look" % (name, side.name), seen)
        for key, value in found.items():
            reply[key] = json.dumps(value).replace('"', "").replace(side.directory, "DIRECTORY")
        side.call("stop", name=name, waiting=True)
        return reply

    return step


def knock(side):
    """Somebody connects to the socket of an on_demand watcher, and stays."""
    side.knocking = socket.socket(socket.AF_UNIX)
    side.knocking.connect(os.path.join(side.directory, "knock.sock"))
    side.wait_for_state("demand", "active")
    side.settle()


def leave(side):
    """And goes, which ends the process."""
    pids = side.pids("demand")
    side.ended = {pid: 0 for pid in pids}
    side.knocking.close()
    side.wait_gone("demand", pids)
    side.wait_for_state("demand", "stopped")


def rm_without_stop(side):
    """The process runs on, and is ended by somebody else in the end."""
    pids = side.pids("left")
    reply = side.call("rm", name="left", nostop=True, waiting=True)
    side.settle()
    for pid in pids:
        os.kill(pid, 0)
        os.kill(pid, signal.SIGKILL)
    reply["running"] = len(pids)
    return reply


EXTRA = "\n[watcher:extra]\ncmd = sleep 100000\nnumprocesses = 2\n"
MORE = EXTRA.replace("= 2", "= 3")
OTHER = MORE.replace("100000", "300000")

STEPS = [
    ("start", start("pair")),
    ("start again", command("start", name="pair")),
    ("incr", command("incr", name="pair")),
    ("incr by 2", command("incr", name="pair", nb=2)),
    ("decr by 3", command("decr", name="pair", nb=3)),
    ("set numprocesses 3", command("set", name="pair", options={"numprocesses": 3})),
    ("set numprocesses 2", command("set", name="pair", options={"numprocesses": 2})),
    ("set graceful_timeout", command("set", name="pair", options={"graceful_timeout": 20})),
    ("set cmd", command("set", name="pair", options={"cmd": "sleep 200000"})),
    ("set env", command("set", name="pair", options={"env": {"PATH": "/usr/bin:/bin", "A": "1"}})),
    ("set two options", command("set", name="pair", options={"warmup_delay": 0, "max_retry": 3})),
    ("set of an unknown option", command("set", name="pair", options={"frobnicate": 3})),
    ("reload", command("reload", name="pair")),
    ("reload --sequential", command("reload", name="pair", sequential=True)),
    ("reload --terminate", command("reload", name="pair", graceful=False)),
    ("restart", command("restart", name="pair")),
    ("restart by pattern", command("restart", name="pa*", match="glob")),
    ("restart by expression", command("restart", name="pa[ei]r", match="regex")),
    ("signal", command("signal", name="pair", signum="cont")),
    ("signal to children", command("signal", name="pair", signum="cont", children=True)),
    ("kill of one", kill_one()),
    ("kill of one with KILL", kill_one(signum=9)),
    ("kill -9 from outside", signal_from_outside("pair", signal.SIGKILL)),
    ("kill -9 of all from outside", signal_from_outside("pair", signal.SIGKILL, slice(None))),
    ("stop", command("stop", name="pair")),
    ("stop again", command("stop", name="pair")),
    ("incr while stopped", command("incr", name="pair")),
    ("decr while stopped", command("decr", name="pair")),
    ("reload while stopped", command("reload", name="pair")),
    ("stop by pattern", command("stop", name="pai*", match="glob")),
    ("start of nobody", command("start", name="nobody")),
    ("start of one process", start("one")),
    ("exit with status 3", signal_from_outside("one", signal.SIGUSR1)),
    ("a signal that ends it", signal_that_ends("one")),
    ("numprocesses 0", command("set", name="one", options={"numprocesses": 0})),
    ("numprocesses 1", command("set", name="one", options={"numprocesses": 1})),
    ("reload of one process", command("reload", name="one")),
    ("stop of one process", command("stop", name="one")),
    ("start without respawn", start("once")),
    ("exit without respawn", signal_from_outside("once", signal.SIGUSR2)),
    ("start of a missing program", command("start", name="missing")),
    ("start of a stubborn one", start("stubborn")),
    ("stop of a stubborn one", command("stop", name="stubborn")),
    ("start of a family", start("family")),
    ("stop of a family", command("stop", name="family")),
    ("max_age", aged),
    ("start of a singleton", start("single")),
    ("incr of a singleton", command("incr", name="single")),
    ("reload of a singleton", command("reload", name="single")),
    ("stop of a singleton", command("stop", name="single")),
    ("start for send_hup", start("hup")),
    ("reload with send_hup", command("reload", name="hup")),
    ("stop after send_hup", command("stop", name="hup")),
    ("start with no process", command("start", name="none")),
    ("stop with no process", command("stop", name="none")),
    ("name with a space", command("start", name="two words")),
    ("stop of it", command("stop", name="two words")),
    ("name with a dot", command("start", name="dot.ted")),
    ("stop of that", command("stop", name="dot.ted")),
    ("start with hooks", command("start", name="hooked")),
    ("stats with a hook", extended_stats),
    ("signal with hooks", command("signal", name="hooked", signum="cont")),
    ("reload with hooks", command("reload", name="hooked")),
    ("crash with hooks", signal_from_outside("hooked", signal.SIGKILL)),
    ("restart with hooks", command("restart", name="hooked")),
    ("stop with hooks", command("stop", name="hooked")),
    ("before_start says no", command("start", name="no.before_start")),
    ("after_start says no", command("start", name="no.after_start")),
    ("before_spawn says no", command("start", name="no.before_spawn")),
    ("after_spawn says no", command("start", name="no.after_spawn")),
    ("before_signal to come", command("start", name="no.before_signal")),
    ("before_signal says no", command("stop", name="no.before_signal")),
    ("before_start fails", command("start", name="bad.before_start")),
    ("failures are ignored", command("start", name="bad.but.ignored")),
    ("before_stop fails", command("stop", name="bad.but.ignored")),
    ("add", command("add", name="Late", cmd="sleep 100000")),
    ("add of a known name", command("add", name="late", cmd="sleep 100000")),
    ("start of an added one", command("start", name="late")),
    ("rm", command("rm", name="late")),
    ("add and start", command("add", name="later", cmd="sleep 100000", start=True)),
    ("rm of a running one", command("rm", name="later")),
    ("add of one to be left", command("add", name="left", cmd="sleep 100000", start=True)),
    ("rm --nostop", rm_without_stop),
    ("rm of an unknown one", command("rm", name="later")),
    ("a new watcher in the file", append(EXTRA)),
    ("numprocesses in the file", edit(EXTRA, MORE)),
    ("cmd in the file", edit(MORE, OTHER)),
    ("a watcher less in the file", edit(OTHER, "")),
    ("nothing new in the file", command("reloadconfig")),
    ("stop of all", command("stop")),
    ("start of all", command("start")),
    ("restart by pattern of several", command("restart", name="*st", match="glob")),
    ("a connection to an on_demand watcher", knock),
    ("the end of the connection", leave),
    ("another connection", knock),
    ("stop of an on_demand watcher", command("stop", name="demand")),
    ("what a process gets", what_it_gets("plain")),
    ("rlimit_*", what_it_gets("limited")),
    ("a socket by number", what_it_gets("listening")),
    ("stdin_socket", what_it_gets("reading")),
    ("flapping", flapping),
]

# Watchers that have several processes at a time, whose events may come in any order between themselves.
MANY = {"pair", "extra"}


# Hooks whose answers change nothing, so that kingpole waits for none of them: they are told when they have
# answered. So is before_signal in front of SIGKILL, which waits for nobody.
ALL_NOTICES = {"after_signal", "before_reap", "after_reap", "after_stop"}
NOTICES = {"no.before_signal": ALL_NOTICES | {"before_signal"}}


def told(event):
    """An event without what cannot be the same."""
    _, action, payload = event
    words = [action]
    words += [str(payload[key]) for key in ("name", "exit_code") if key in payload]
    return " ".join(words)


def order(events):
    """Watchers in the order in which something was done to them first."""
    return list(collections.OrderedDict.fromkeys(event[0] for event in events if event[1] in ("kill", "spawn")))


def in_order(events):
    """With letters for processes, in the order in which they appear."""
    letters, words = {}, []
    for event in events:
        pid = event[2].get("process_pid")
        letter = "" if pid is None else " " + letters.setdefault(pid, chr(ord("a") + len(letters)))
        words.append(told(event) + letter)
    return ", ".join(words)


def by_process(events):
    """What each process went through between two events of the watcher."""
    words, processes = [], {}

    def close():
        counts = collections.Counter(" ".join(["(" + ", ".join(seen) + ")"]) for seen in processes.values())
        words.extend("%d %s" % (count, text) for text, count in sorted(counts.items()))
        processes.clear()

    for event in events:
        pid = event[2].get("process_pid")
        if pid is None:
            close()
            words.append(told(event))
        else:
            processes.setdefault(pid, []).append(told(event))
    close()
    return ", ".join(words)


def lives(events):
    """The kinds of lives that processes had, however many had them."""
    processes = {}
    for event in events:
        pid = event[2].get("process_pid")
        if pid is not None:
            processes.setdefault(pid, []).append(told(event))
    ends = sorted({", ".join(seen) for seen in processes.values()})
    return "; ".join(["lives: " + end for end in ends] + [told(event) for event in events if len(event[2]) == 1])


def shape(reply):
    if reply is None:
        return ""
    if reply["status"] == "error":
        return "error %d" % reply["errno"]
    skipped = {"id", "time"}
    words = []
    for key, value in sorted(reply.items()):
        if key in skipped:
            continue
        if key == "info" and isinstance(value, dict):
            value = {part: len(pids) if isinstance(pids, list) else sorted(pids) for part, pids in sorted(value.items())}
            if not {"started", "stopped", "kept"} & set(value):
                value = list(value.values())
        elif isinstance(value, list):
            value = len(value)
        words.append("%s %s" % (key, json.dumps(value)))
    return ", ".join(words).replace('"', "")


def with_all_ends(side):
    """What circusd published, with the ends that it keeps to itself: of processes that it killed for other reasons than
    a stop, and of those that end between two looks of its housekeeping. Which of them are told is chance.
    """
    heard = list(side.heard)

    def add(watcher, at, pid, code):
        news = [(watcher, "reap", {"process_pid": pid, "exit_code": code, "time": 0})]
        if watcher == "hooked":
            hook = lambda name: (watcher, "hook_success", {"name": name, "time": 0})
            news = [hook("before_reap"), *news, hook("after_reap")]
        heard[at:at] = news

    told = {event[2]["process_pid"] for event in heard if event[1] == "reap"}
    killed = collections.OrderedDict((e[2]["process_pid"], e[0]) for e in heard if e[1] == "kill")
    for pid, watcher in killed.items():
        if pid not in told and watcher != "family" and pid not in side.pids(watcher.replace("_", " ")):
            last = max(at for at, event in enumerate(heard) if event[2].get("process_pid") == pid)
            add(watcher, last + 1, pid, side.usual_end)
    for pid, code in side.ended.items():
        if pid not in told:
            add(heard[0][0], 0, pid, code)
    return heard


def lines_of(side, heard):
    """What was heard since the last step, in lines."""
    lines = {}
    for watcher in sorted({event[0] for event in heard}):
        events = [event for event in heard if event[0] == watcher]
        form = lives if watcher == "aged" else by_process if watcher in MANY else in_order
        notices = [event for event in events if event[2].get("name") in NOTICES.get(watcher, ALL_NOTICES)]
        lines["events of " + watcher] = form([event for event in events if event not in notices])
        if notices:
            lines["notices of " + watcher] = form(notices)
    touched = order(heard)
    if len(touched) > 1:
        lines["order"] = ", ".join(touched)
    return lines


def not_empty(lines):
    return {what: text for what, text in lines.items() if text}


def observe(side, step, expected):
    """What became of a step, in lines."""
    side.heard, side.ended, side.usual_end = [], {}, -15
    lines = {"reply": shape(step(side))}
    state = side.settle()
    for watcher in set(state) | set(side.state):
        if state.get(watcher) != side.state.get(watcher):
            lines["state of " + watcher] = state.get(watcher, "gone")
    side.state = state
    side.fence()
    if expected is not None:
        # Nobody waits for hooks whose answers change nothing, so they may still be on their way.
        end = time.monotonic() + NOTICES_SECONDS
        while not_empty({**lines, **lines_of(side, side.heard)}) != expected and time.monotonic() < end:
            side.fence()
    for _, action, payload in side.heard:
        side.keys.setdefault(action, set()).add(tuple(sorted(payload)))
    lines.update(lines_of(side, with_all_ends(side) if expected is None else side.heard))
    return lines


def expectation(name, theirs, listed):
    """The lines that kingpole shall show where circusd showed these."""
    ours = {what: text[1] for (step, what), text in listed.items() if step == name}
    return not_empty({**theirs, **ours})


def intended(document):
    """The table of differences."""
    with open(document) as file:
        text = file.read()
    table = text.split("<!-- table differential -->")[1].split("<!-- end -->")[0]
    rows = {}
    for line in table.strip().splitlines()[2:]:
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        assert len(cells) == 5 and cells[4], "a row needs five cells, and the last is why: %r" % line
        step, what, theirs, ours = (cell.strip("`") for cell in cells[:4])
        assert (step, what) not in rows, line
        rows[step, what] = (theirs, ours)
    return rows


def main(directory, document):
    listed = intended(document)
    theirs = os.path.join(directory, "circusd")
    os.mkdir(theirs)
    with open(os.path.join(theirs, "circus.ini"), "w") as file:
        file.write(configuration(theirs))
    log = open(os.path.join(directory, "circusd.log"), "wb")
    environment = dict(os.environ, PYTHONPATH=HERE)
    circusd = subprocess.Popen(
        [sys.executable, "-c", "from circus.circusd import main; main()", os.path.join(theirs, "circus.ini")],
        stdout=log,
        stderr=log,
        cwd=theirs,
        env=environment,
        stdin=subprocess.DEVNULL,
    )
    wrong, found = [], set()
    try:
        sides = [Side("circusd", theirs), Side("kingpole", directory)]
        for side in sides:
            side.listen()
            side.state = side.settle()
        for name, step in STEPS:
            begun = time.monotonic()
            theirs = observe(sides[0], step, None)
            seen = [theirs, observe(sides[1], step, expectation(name, theirs, listed))]
            for what in sorted({key for lines in seen for key in lines}):
                pair = tuple(lines.get(what, "") for lines in seen)
                if pair[0] == pair[1]:
                    continue
                found.add((name, what))
                if listed.get((name, what)) != pair:
                    wrong.append((name, what))
                    print("| %s | %s | `%s` | `%s` | |" % (name, what, *pair), flush=True)
            print("%s: %.1f s" % (name, time.monotonic() - begun), flush=True)
        for action in sorted(set(sides[0].keys) | set(sides[1].keys)):
            keys = [side.keys.get(action) for side in sides]
            if keys[0] != keys[1]:
                wrong.append(("payload", action))
                print("payload of %s: %r, %r" % (action, *keys))
        for row in sorted(set(listed) - found):
            wrong.append(row)
            print("%s: %s is listed and does not differ" % row)
        print("%d steps, %d listed differences, %d wrong" % (len(STEPS), len(found), len(wrong)))
        for side in sides:
            side.call("quit", waiting=True)
        circusd.wait(DEADLINE_SECONDS)
    finally:
        if circusd.poll() is None:
            circusd.send_signal(signal.SIGKILL)
            circusd.wait()
    return 1 if wrong else 0


if __name__ == "__main__":
    if sys.argv[1] == "--configuration":
        sys.stdout.write(configuration(sys.argv[2]))
    else:
        sys.exit(main(sys.argv[1], sys.argv[2]))
