"""Runs Papa's own test suite, as it is in the source package on PyPI, against a daemon of ours.

    python papa_suite.py PATH-OF-SOCKET DIRECTORY

The package is fetched into DIRECTORY once; the hash in requirements.txt says which one. Its tests talk
about programs in `executables`, which the package lacks: those here do what the tests say of them.
Tests that need an interface or an address family that this machine lacks are left out, by name.
"""

import hashlib
import importlib.util
import os
import pathlib
import pwd
import re
import socket
import subprocess
import sys
import tarfile
import time
import unittest

import papa

# The tests measure with sleeps of tenths of seconds, so a busy machine may fail any of them once.
TRIES_MAX = 5
DEADLINE_SECONDS = 60
HERE = pathlib.Path(__file__).resolve().parent

THREE_LINES = """
import sys, time
print("Version: " + sys.version.partition(" ")[0], flush=True)
time.sleep(0.08)
print("Executable: " + sys.executable, flush=True)
time.sleep(0.08)
print("Args: " + " ".join(sys.argv[1:]), flush=True)
sys.stderr.write("done")
"""
ECHO_SERVER = """
import socket, sys
listener = socket.socket(fileno=int(sys.argv[1]))
connection = listener.accept()[0]
while True:
    data = connection.recv(4096)
    if not data:
        break
    sys.stdout.write(data.decode())
    connection.sendall(data)
"""
ECHO_CLIENT = """
import socket, sys
connection = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
connection.sendall(b"howdy\\n")
sys.stdout.write(connection.makefile().readline())
"""


def requirement():
    """Papa's lines in requirements.txt, and the hash."""
    text = (HERE / "requirements.txt").read_text()
    found = re.search(r"^(papa==\S+).*?sha256:(\w+)", text, re.M | re.S)
    return found.group(1), found.group(2)


def fetch(directory):
    """The source package, in `directory`."""
    name, digest = requirement()
    package = directory / ("%s.tar.gz" % name.replace("==", "-"))
    if not package.exists() or hashlib.sha256(package.read_bytes()).hexdigest() != digest:
        wanted = directory / "papa.txt"
        wanted.write_text("%s --hash=sha256:%s\n" % (name, digest))
        options = ["--quiet", "--no-deps", "--no-binary", ":all:", "--no-build-isolation"]
        command = [sys.executable, "-m", "pip", "download", "--require-hashes", *options]
        subprocess.run([*command, "-d", str(directory), "-r", str(wanted)], check=True)
        assert hashlib.sha256(package.read_bytes()).hexdigest() == digest
    return package


def load(package, directory):
    """Its tests, as a module."""
    with tarfile.open(package) as archive:
        name = next(n for n in archive.getnames() if n.endswith("/tests/__init__.py"))
        source = archive.extractfile(name).read()
    place = directory / "suite"
    (place / "executables").mkdir(parents=True, exist_ok=True)
    (place / "papa_tests.py").write_bytes(source)
    for name, text in [
        ("write_three_lines", THREE_LINES),
        ("echo_server", ECHO_SERVER),
        ("echo_client", ECHO_CLIENT),
    ]:
        (place / "executables" / (name + ".py")).write_text(text)
    spec = importlib.util.spec_from_file_location("papa_tests", str(place / "papa_tests.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def works(family, interface=None):
    """Whether this machine lets a socket be bound like that."""
    try:
        with socket.socket(family) as probe:
            if interface:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
            probe.bind(("::1" if family == socket.AF_INET6 and not interface else "", 0))
        return True
    except OSError:
        return False


def left_out():
    missing = {}
    if not works(socket.AF_INET, "eth0"):
        missing["test_inet_interface"] = "eth0"
    if not works(socket.AF_INET6):
        missing["test_inet6"] = missing["test_inet6_interface"] = "IPv6"
    if not works(socket.AF_INET6, "eth0"):
        missing.setdefault("test_inet6_interface", "eth0")
    return missing


def clean(path):
    """Leaves nothing of the last test, as a daemon of its own for each of them would."""
    end = time.monotonic() + DEADLINE_SECONDS
    with papa.Papa() as p:
        while True:
            for process in p.list_processes().values():
                if process["running"]:
                    os.kill(process["pid"], 9)
            p.remove_processes()
            p.remove_sockets()
            values = p.list_values()
            if values:
                p.remove_values(*values)
            left = p.list_processes(), p.list_sockets(), p.list_values()
            if not any(left):
                return
            if time.monotonic() > end:
                raise SystemExit("FAILED: still there: %r" % (left,))
            time.sleep(0.05)


def main():
    path, directory = sys.argv[1], pathlib.Path(sys.argv[2])
    directory.mkdir(parents=True, exist_ok=True)
    user = pwd.getpwuid(os.getuid())
    os.environ.update(LOGNAME=user.pw_name, HOME=user.pw_dir, TMPDIR=os.path.dirname(path))
    suite = load(fetch(directory), pathlib.Path(os.environ["TMPDIR"]))
    papa.set_default_path(path)
    # Otherwise it starts a daemon of its own where it finds none.
    papa.Papa.spawned = True
    missing = left_out()
    passed = 0
    for group in unittest.defaultTestLoader.loadTestsFromModule(suite):
        for name in [test._testMethodName for test in group]:
            if name in missing:
                print("left out: %s needs %s" % (name, missing[name]))
                continue
            failures = []
            while len(failures) < TRIES_MAX:
                clean(path)
                result = unittest.TestResult()
                type(next(iter(group)))(name).run(result)
                if result.wasSuccessful():
                    break
                failures += [text for _, text in result.failures + result.errors]
            if len(failures) >= TRIES_MAX:
                raise SystemExit("FAILED: %s\n%s" % (name, "\n".join(failures)))
            passed += 1
            print("ok: %s%s" % (name, ", at try %d" % (len(failures) + 1) if failures else ""))
    clean(path)
    assert passed >= 25, passed


main()
