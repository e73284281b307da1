"""An HTTP server on a listening socket that somebody else holds: it answers its own pid.

The socket outlives this program and the manager that started it, so several of these can share
it, and connections wait in its queue while one is replaced.
"""

import argparse
import http.server
import os
import queue
import signal
import socket
import threading


def say(text):
    # Flushed at once, as one line in one write.
    print(text, flush=True)


class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Seconds after which an idle connection is closed, so that it does not hold up a stop.
    timeout = 5

    def do_GET(self):
        body = b"worker %d, pid %d\n" % (self.server.worker, os.getpid())
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *arguments):
        say("%s: %s" % (self.client_address[0], format % arguments))


class Server(http.server.ThreadingHTTPServer):
    # A worker that is asked to stop finishes the requests it has begun.
    daemon_threads = False

    def __init__(self, listener, worker):
        super().__init__(listener.getsockname(), Answer, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.worker = worker


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fd", type=int, required=True, help="descriptor of the listening socket")
    parser.add_argument("--worker", type=int, default=1, help="number of this worker")
    options = parser.parse_args()

    listener = socket.socket(fileno=options.fd)
    # Another worker may take the connection that woke this one.
    listener.setblocking(False)
    server = Server(listener, options.worker)

    # shutdown() waits for the loop that a handler has interrupted, so another thread calls it. That one
    # is there already: a handler that starts it could meet the server starting a thread.
    asked = queue.SimpleQueue()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: asked.put(number))
    threading.Thread(target=lambda: asked.get() and server.shutdown(), daemon=True).start()
    host, port = listener.getsockname()[:2]
    say("worker %d (pid %d) serves http://%s:%d/" % (options.worker, os.getpid(), host, port))
    server.serve_forever(poll_interval=0.1)
    server.server_close()
    say("worker %d (pid %d) has finished" % (options.worker, os.getpid()))


if __name__ == "__main__":
    main()
