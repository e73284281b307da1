"""Programs for differential.py. They need nothing but Python.

    differential_process.py look NAME [FD]     writes what it was given to look.NAME, and stays
    differential_process.py serve FD           accepts one connection, and ends with it
"""

import json
import os
import resource
import socket
import stat
import sys
import time


def limits(*names):
    return {name: list(resource.getrlimit(getattr(resource, "RLIMIT_" + name))) for name in names}


def about_socket(number):
    listener = socket.socket(fileno=number)
    return {
        "family": listener.family.name,
        "type": listener.type.name,
        "listens": listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN),
        "reuseport": listener.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT),
        "blocking": os.get_blocking(number),
    }


def look(name, number=None):
    found = {
        "PATH": os.environ.get("PATH"),
        "PYTHONPATH": os.environ.get("PYTHONPATH"),
        "variables": sorted(key for key in os.environ if not key.startswith(("LC_", "__"))),
        "limits": limits("CORE", "FSIZE", "STACK"),
        "umask": os.umask(0),
        "directory": os.getcwd(),
        "leads its session": os.getsid(0) == os.getpid(),
        "standard input": "socket" if stat.S_ISSOCK(os.fstat(0).st_mode) else os.readlink("/proc/self/fd/0"),
        "arguments": sys.argv[2:3],
    }
    if number is not None:
        found["socket"] = about_socket(int(number))
    with open("look.%s.new" % name, "w") as file:
        json.dump(found, file)
    os.rename("look.%s.new" % name, "look.%s" % name)
    while True:
        time.sleep(1000)


def serve(number):
    listener = socket.socket(fileno=int(number))
    listener.setblocking(True)
    connection, _ = listener.accept()
    connection.settimeout(None)
    while connection.recv(100):
        pass


if __name__ == "__main__":
    {"look": look, "serve": serve}[sys.argv[1]](*sys.argv[2:])
