"""Lets Chaussette finish what it has begun before it ends: `chaussette --pre-hook graceful.install`.

As it comes, Chaussette with its own server ends at once on SIGTERM, in the middle of a request.
"""

import queue
import signal
import threading

from chaussette.backend._wsgiref import ChaussetteServer


def install(arguments):
    serve = ChaussetteServer.serve_forever

    def serve_until_asked_to_stop(server):
        # Several processes share the socket: another one may take the connection that woke this one.
        server.socket.setblocking(False)
        # shutdown() waits for the loop that the handler has interrupted.
        asked = queue.SimpleQueue()
        signal.signal(signal.SIGTERM, lambda number, frame: asked.put(number))
        threading.Thread(target=lambda: asked.get() and server.shutdown(), daemon=True).start()
        serve(server, poll_interval=0.1)

    ChaussetteServer.serve_forever = serve_until_asked_to_stop
