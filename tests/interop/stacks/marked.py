"""A file for each server that is ready, from when it accepts requests until it is asked to stop: the
test counts them. `marked.py PROGRAM ARGUMENTS` does so for a program with a server of `socketserver`; as
gunicorn's configuration, as uWSGI's application and as its hook this file does it for those.

The name of the file is in the environment, as MARK.
"""

import os
import runpy
import signal
import socketserver
import sys


def mark():
    with open(os.environ["MARK"], "w"):
        pass


def unmark(name):
    try:
        os.unlink(name)
    except FileNotFoundError:
        pass  # a manager that was killed had asked it to stop, and the next one asks again


def unmark_on_sigterm():
    name = os.environ["MARK"]
    asked = signal.getsignal(signal.SIGTERM)

    def stop(number, frame):
        unmark(name)
        asked(number, frame)

    signal.signal(signal.SIGTERM, stop)


# gunicorn: the first is called in the parent before it has children.


def when_ready(server):
    unmark_on_sigterm()


def post_worker_init(worker):
    mark()


# uWSGI: loads this file as its application, and the manager calls the hook.

try:
    import uwsgi
except ImportError:
    pass
else:
    from app import application  # noqa: F401

    uwsgi.post_fork_hook = lambda: mark() if uwsgi.worker_id() == 1 else None


def pause(watcher, arbiter, hook_name, pid, signum, **arguments):
    import lossless

    if signum == signal.SIGQUIT:
        unmark("ready/%d" % watcher.processes[pid].wid)
    return lossless.pause(watcher, arbiter, hook_name, pid, signum, **arguments)


def main():
    serve = socketserver.BaseServer.serve_forever

    def serve_marked(server, **arguments):
        unmark_on_sigterm()
        mark()
        serve(server, **arguments)

    socketserver.BaseServer.serve_forever = serve_marked
    sys.argv.pop(0)
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
