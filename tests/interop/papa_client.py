"""Drives a daemon that speaks Papa's protocol through the real `papa` client package.

    python papa_client.py unix:/path/to/socket | tcp:PORT [unittest arguments]

The daemon is expected to be running, and to hold nothing. The same script passes against Papa's
own daemon (see original_papa.py), which is how we know that the script is right.
"""

import os
import socket
import subprocess
import sys
import tempfile
import time
import unittest

import papa

DEADLINE_SECONDS = 90


def connect():
    return papa.Papa()


def read_until_closed(watcher):
    """Everything a watcher says until each process has closed: (out, err, closed)."""
    out, err, closed = [], [], []
    while True:
        batch = watcher.read()
        if batch is None:
            return out, err, closed
        out += batch[0]
        err += batch[1]
        closed += batch[2]


def text(items, name=None):
    return b"".join(i.data for i in items if name is None or i.name == name).decode()


def wait_for(what, probe):
    end = time.monotonic() + DEADLINE_SECONDS
    while True:
        seen = probe()
        if seen:
            return seen
        if time.monotonic() > end:
            raise AssertionError("%s: last saw %r" % (what, seen))
        time.sleep(0.02)


SHELL = "/bin/sh"


class SocketTest(unittest.TestCase):
    def tearDown(self):
        with connect() as p:
            p.remove_sockets()

    def test_inet_socket_gets_a_port_and_a_fileno(self):
        with connect() as p:
            reply = p.make_socket("inet_socket")
            self.assertIn("port", reply)
            self.assertIn("fileno", reply)
            expected = {
                "inet_socket": {
                    "family": "inet",
                    "port": reply["port"],
                    "backlog": 5,
                    "host": "127.0.0.1",
                    "fileno": reply["fileno"],
                    "type": "stream",
                }
            }
            self.assertDictEqual(expected, p.list_sockets())
            self.assertDictEqual(reply, p.make_socket("inet_socket"))
            self.assertRaises(papa.Error, p.make_socket, "inet_socket", socket_type=socket.SOCK_DGRAM)
            self.assertRaises(papa.Error, p.make_socket, "inet_socket", port=reply["port"] + 1)

    def test_inet6_socket_is_on_the_ipv6_loopback(self):
        with connect() as p:
            reply = p.make_socket("inet6_socket", family=socket.AF_INET6)
            self.assertEqual("::1", reply["host"])
            self.assertEqual("inet6", reply["family"])
            socket.create_connection(("::1", reply["port"]), DEADLINE_SECONDS).close()

    def test_explicit_host_and_port_are_kept(self):
        # An address that nobody else uses, so that the port is still free when it is asked for.
        host = "127.%d.%d.7" % (os.getpid() >> 8 & 255, os.getpid() & 255)
        probe = socket.socket()
        probe.bind((host, 0))
        port = probe.getsockname()[1]
        probe.close()
        with connect() as p:
            reply = p.make_socket("one", host=host, port=port, backlog=7)
            self.assertEqual((port, 7), (reply["port"], reply["backlog"]))
            self.assertRaises(papa.Error, p.make_socket, "two", host=host, port=port)

    def test_unix_socket_accepts_connections_and_goes_with_its_path(self):
        with tempfile.TemporaryDirectory() as d, connect() as p:
            path = os.path.join(d, "s")
            reply = p.make_socket("unix_socket", path=path, umask=0)
            self.assertEqual(path, reply["path"])
            self.assertEqual("unix", reply["family"])
            client = socket.socket(socket.AF_UNIX)
            client.connect(path)
            client.close()
            self.assertRaises(papa.Error, p.make_socket, "unix_socket", path=path + "2")
            p.remove_sockets("unix_socket")
            self.assertFalse(os.path.exists(path))
            self.assertRaises(papa.Error, p.make_socket, "relative", path="relative/path")

    def test_wildcards_list_and_remove_by_prefix(self):
        with connect() as p:
            for name in ("circus.a", "circus.b", "uwsgi.c"):
                p.make_socket(name)
            self.assertEqual({"circus.a", "circus.b"}, set(p.list_sockets("circus.*")))
            self.assertEqual({"circus.b", "uwsgi.c"}, set(p.list_sockets("circus.b", "uwsgi.*")))
            self.assertEqual(3, len(p.list_sockets("*")))
            self.assertEqual({}, p.list_sockets("not.there"))
            p.remove_sockets("circus.*")
            self.assertEqual({"uwsgi.c"}, set(p.list_sockets()))
            self.assertRaises(papa.Error, p.remove_sockets, "not.there")


class ValueTest(unittest.TestCase):
    def tearDown(self):
        with connect() as p:
            for name in p.list_values():
                p.set(name)

    def test_values_are_set_read_listed_and_removed(self):
        with connect() as p:
            self.assertEqual(None, p.get("aack"))
            p.set("aack", "bar")
            self.assertEqual("bar", p.get("aack"))
            p.set("aack2", "with  two spaces")
            self.assertEqual({"aack": "bar", "aack2": "with  two spaces"}, p.list_values())
            p.set("bar", "foo")
            self.assertEqual({"aack", "aack2"}, set(p.list_values("a*")))
            p.remove_values("aack*")
            self.assertEqual({"bar": "foo"}, p.list_values())
            p.set("bar")
            self.assertEqual({}, p.list_values())
            self.assertRaises(papa.Error, p.remove_values)
            self.assertRaises(papa.Error, p.remove_values, "*")


class ProcessTest(unittest.TestCase):
    def setUp(self):
        with connect() as p:
            self.assertDictEqual({}, p.list_processes())

    def tearDown(self):
        with connect() as p:
            for info in p.list_processes().values():
                if info["running"]:
                    os.kill(info["pid"], 9)
            p.remove_processes()
            wait_for("no process left", lambda: not p.list_processes())

    def test_output_of_a_process_arrives_whole_with_plausible_times(self):
        with connect() as p:
            before = time.time()
            reply = p.make_process("write3", SHELL, args=["-c", "echo 1; echo 2; echo 3; exit 7"])
            self.assertGreater(reply["pid"], 0)
            self.assertTrue(before - 1 <= reply["started"] <= time.time() + 1)
            w = p.watch_processes("write*")
            out, err, closed = read_until_closed(w)
            self.assertEqual("1\n2\n3\n", text(out))
            self.assertEqual([], err)
            self.assertEqual([("write3", 7)], [(c.name, c.data) for c in closed])
            self.assertEqual({"write3": 7}, w.exit_code)
            for item in out + closed:
                self.assertTrue(before - 1 <= item.timestamp <= time.time() + 1)
            self.assertDictEqual({}, p.list_processes())

    def test_end_by_signal_is_minus_the_signal(self):
        with connect() as p:
            p.make_process("killed", SHELL, args=["-c", "kill -9 $$"])
            _, _, closed = read_until_closed(p.watch_processes("killed"))
            self.assertEqual(-9, closed[0].data)

    def test_environment_is_exactly_what_was_given(self):
        with connect() as p:
            p.make_process("env", "/usr/bin/env", env={"A": "b c", "Q": "tail\\", "E": "x=y"})
            out, _, _ = read_until_closed(p.watch_processes("env"))
            self.assertEqual(["A=b c", "E=x=y", "Q=tail\\"], sorted(text(out).splitlines()))

    def test_arguments_keep_inner_spaces(self):
        with connect() as p:
            p.make_process("args", "/usr/bin/printf", args=["[%s]\\n", "a  b", "c", "d e"])
            out, _, _ = read_until_closed(p.watch_processes("args"))
            self.assertEqual("[a  b]\n[c]\n[d e]\n", text(out))

    def test_streams_are_apart_merged_or_discarded(self):
        script = "echo out; echo err >&2"
        with connect() as p:
            p.make_process("apart", SHELL, args=["-c", script])
            out, err, _ = read_until_closed(p.watch_processes("apart"))
            self.assertEqual(("out\n", "err\n"), (text(out), text(err)))
            p.make_process("merged", SHELL, args=["-c", script], stderr=subprocess.STDOUT)
            out, err, _ = read_until_closed(p.watch_processes("merged"))
            self.assertEqual(("out\nerr\n", ""), (text(out), text(err)))
            p.make_process("no_err", SHELL, args=["-c", script], stderr=papa.DEVNULL)
            out, err, _ = read_until_closed(p.watch_processes("no_err"))
            self.assertEqual(("out\n", ""), (text(out), text(err)))
            p.make_process("no_out", SHELL, args=["-c", script], stdout=papa.DEVNULL)
            out, err, _ = read_until_closed(p.watch_processes("no_out"))
            self.assertEqual(("", "err\n"), (text(out), text(err)))
            p.make_process("nothing", SHELL, args=["-c", script], bufsize=0)
            out, err, closed = read_until_closed(p.watch_processes("nothing"))
            self.assertEqual(("", "", 1), (text(out), text(err), len(closed)))

    def test_watch_immediately_needs_no_second_command(self):
        with connect() as p:
            w = p.make_process(
                "now", SHELL, args=["-c", "echo here; exit 3"], watch_immediately=True
            )
            out, _, closed = read_until_closed(w)
            self.assertEqual("here\n", text(out))
            self.assertEqual(3, closed[0].data)
            # The connection is good for commands again.
            self.assertDictEqual({}, p.list_processes())

    def test_one_watcher_sees_several_processes(self):
        with connect() as p:
            for n in (1, 2, 3):
                p.make_process("many.%d" % n, SHELL, args=["-c", "echo I am %d; exit %d" % (n, n)])
            w = p.watch_processes("many.*")
            out, _, closed = read_until_closed(w)
            for n in (1, 2, 3):
                self.assertEqual("I am %d\n" % n, text(out, "many.%d" % n))
            self.assertEqual({"many.1": 1, "many.2": 2, "many.3": 3}, w.exit_code)
            self.assertEqual(3, len(closed))

    def test_parallel_watchers_of_different_processes_do_not_mix(self):
        with connect() as p:
            p.make_process("left", SHELL, args=["-c", "echo left"])
            p.make_process("right", SHELL, args=["-c", "echo right"])
            left = p.watch_processes("left")
            right = p.watch_processes("right")
            self.assertEqual("right\n", text(read_until_closed(right)[0]))
            self.assertEqual("left\n", text(read_until_closed(left)[0]))

    def test_unacknowledged_output_is_there_for_the_next_watcher(self):
        with connect() as p:
            p.make_process("twice", SHELL, args=["-c", "echo once; exit 4"])
            wait_for("its end", lambda: not p.list_processes()["twice"]["running"])
            first = p.watch_processes("twice")
            seen = first.read()
            while not seen[2]:
                seen = tuple(a + b for a, b in zip(seen, first.read()))
            self.assertEqual("once\n", text(seen[0]))
            # Gone without an acknowledgement.
            first.connection.close()
            with connect() as again:
                out, _, closed = read_until_closed(again.watch_processes("twice"))
                self.assertEqual(4, closed[0].data)
                self.assertTrue("once\n".endswith(text(out)))

    def test_small_buffer_keeps_the_newest_output(self):
        lines = "i=0; while [ $i -lt 2000 ]; do i=$((i+1)); echo line $i; done"
        with connect() as p:
            p.make_process("small", SHELL, args=["-c", lines], bufsize="4k")
            wait_for("its end", lambda: not p.list_processes()["small"]["running"])
            out, _, _ = read_until_closed(p.watch_processes("small"))
            # Either side keeps whole reads; one read of Papa's may be larger than the buffer.
            self.assertTrue(text(out).endswith("line 2000\n"))

    def test_buffer_of_a_few_bytes_is_counted_in_bytes(self):
        # Each write is read before the next: FIONREAD says how much of it still lies in the pipe.
        script = (
            "import array, fcntl, os, termios, time\n"
            "def say(fd, text):\n"
            "    os.write(fd, text)\n"
            "    left = array.array('i', [1])\n"
            "    while left[0]:\n"
            "        time.sleep(0.01)\n"
            "        fcntl.ioctl(fd, termios.FIONREAD, left)\n"
            "say(1, b'first words\\n')\n"
            "say(1, b'more words\\n')\n"
            "say(1, b'last\\n')\n"
            "say(2, b'end\\n')\n"
        )
        with tempfile.NamedTemporaryFile("w", suffix=".py") as file, connect() as p:
            file.write(script)
            file.flush()
            p.make_process("tiny", sys.executable, args=[file.name], bufsize=14)
            wait_for("its end", lambda: not p.list_processes()["tiny"]["running"])
            out, err, _ = read_until_closed(p.watch_processes("tiny"))
            self.assertEqual(("last\n", "end\n"), (text(out), text(err)))

    def test_stopped_watcher_gives_the_connection_back(self):
        with connect() as p:
            p.make_process("endless", SHELL, args=["-c", "echo ready; exec sleep 600"])
            w = p.watch_processes("endless")
            self.assertEqual("ready\n", text(w.read()[0]))
            w.close()
            self.assertTrue(p.list_processes()["endless"]["running"])

    def test_removed_process_is_forgotten_at_its_end_without_a_signal(self):
        with connect() as p:
            pid = p.make_process("removed", "/bin/sleep", args=["600"])["pid"]
            p.remove_processes("removed")
            os.kill(pid, 0)
            self.assertTrue(p.list_processes()["removed"]["running"])
            os.kill(pid, 15)
            wait_for("it is forgotten", lambda: "removed" not in p.list_processes())
            self.assertRaises(papa.Error, p.remove_processes, "removed")

    def test_equal_process_is_found_and_a_different_one_refused(self):
        with connect() as p:
            first = p.make_process("same", "/bin/sleep", args=["600"], env={"A": "b"})
            second = p.make_process("same", "/bin/sleep", args=["600"], env={"A": "b"})
            self.assertEqual(first, second)
            self.assertRaises(papa.Error, p.make_process, "same", "/bin/sleep", args=["601"])

    def test_rlimits_working_directory_and_ids(self):
        with connect() as p:
            p.make_process(
                "limits", SHELL, args=["-c", "ulimit -n; pwd"], rlimits={"nofile": 37}, working_dir="/usr"
            )
            out, _, _ = read_until_closed(p.watch_processes("limits"))
            self.assertEqual("37\n/usr\n", text(out))
            self.assertRaises(papa.Error, p.make_process, "bad", SHELL, rlimits={"bogus": 1})
            self.assertRaises(papa.Error, p.make_process, "bad", SHELL, rlimits={"nofile": "many"})
            self.assertRaises(papa.Error, p.make_process, "bad", SHELL, working_dir="/not/there")
            self.assertRaises(papa.Error, p.make_process, "bad", "/not/there")
            self.assertRaises(papa.Error, p.make_process, "bad", SHELL, uid="no_such_user_here")
            if os.getuid() == 0:
                p.make_process("nobody", "/usr/bin/id", args=["-un"], uid="nobody")
                out, _, _ = read_until_closed(p.watch_processes("nobody"))
                self.assertEqual("nobody\n", text(out))

    def test_socket_reaches_the_child_by_number(self):
        server = (
            "import socket,sys; s=socket.socket(fileno=int(sys.argv[1]));"
            "c=s.accept()[0]; c.sendall(sys.argv[2].encode()); c.close()"
        )
        with connect() as p:
            made = p.make_socket("web")
            p.make_process(
                "server",
                sys.executable,
                args=["-c", server, "$(socket.web.fileno)", "$(socket.web.port)"],
            )
            c = socket.create_connection(("127.0.0.1", made["port"]), DEADLINE_SECONDS)
            self.assertEqual(str(made["port"]).encode(), c.recv(100))
            c.close()
            read_until_closed(p.watch_processes("server"))
            p.remove_sockets("web")
            self.assertRaises(papa.Error, p.make_process, "bad", SHELL, args=["$(socket.web.fileno)"])

    def test_large_output_is_complete_while_it_is_read(self):
        lines = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); echo line $i; done"
        with connect() as p:
            w = p.make_process("large", SHELL, args=["-c", lines], bufsize="8m", watch_immediately=True)
            out, _, _ = read_until_closed(w)
            self.assertEqual("".join("line %d\n" % n for n in range(1, 20001)), text(out))


class ExitTest(unittest.TestCase):
    def test_daemon_that_holds_something_is_not_idle(self):
        with connect() as p:
            p.set("held", "1")
            self.assertFalse(p.exit_if_idle())
            p.set("held")


class LeavingTest(unittest.TestCase):
    """Last: it ends the daemon. The caller waits for that, because connecting would prevent it."""

    def test_idle_daemon_agrees_to_exit(self):
        with connect() as p:
            self.assertTrue(p.exit_if_idle())


def use(address):
    """Makes the client package talk to `address`, and never start a daemon of its own."""
    scheme, _, rest = address.partition(":")
    if scheme == "unix":
        papa.set_default_path(rest)
    elif scheme == "tcp":
        papa.set_default_port(int(rest))
    else:
        raise SystemExit("address must be unix:PATH or tcp:PORT, not %r" % address)
    papa.Papa.spawned = True
    papa.set_default_connection_timeout(DEADLINE_SECONDS)
    socket.setdefaulttimeout(DEADLINE_SECONDS)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    use(sys.argv.pop(1))
    names = sys.argv[1:] or ["SocketTest", "ValueTest", "ProcessTest", "ExitTest", "LeavingTest"]
    suite = unittest.defaultTestLoader.loadTestsFromNames(names, sys.modules["__main__"])
    result = unittest.TextTestRunner(verbosity=2).run(suite)
    sys.exit(not result.wasSuccessful())
