"""Answers requests that came through Mongrel2 with its own pid.

On SIGTERM it finishes what it was given and says goodbye to the queue before it ends.
"""

import json
import os
import signal
import sys

import zmq

from mongrel2_queue import BYE, MORE

# Milliseconds after which it asks again: the queue may have been replaced.
ASK_AGAIN = 5000


def parse(request):
    """Who sent it, for which connection, and the headers."""
    sender, connection, _, rest = request.split(b" ", 3)
    length, rest = rest.split(b":", 1)
    return sender, connection, json.loads(rest[: int(length)])


def answer(request):
    """What goes back to Mongrel2; nothing if nobody asked."""
    sender, connection, headers = parse(request)
    if headers["METHOD"] == "JSON":
        return []  # somebody has closed a connection
    body = b"%d\n" % os.getpid()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n" % len(body)
    to = b"%s %d:%s, " % (sender, len(connection), connection)
    messages = [to + head + body]
    if headers.get("connection", "").lower() == "close" or headers["VERSION"] == "HTTP/1.0":
        messages.append(to)  # nothing more comes
    return messages


def main(queue_address, answers_address):
    context = zmq.Context()
    answers = context.socket(zmq.XPUB)
    answers.connect(answers_address)
    answers.recv()  # before Mongrel2 listens, answers would be lost
    queue = context.socket(zmq.DEALER)
    queue.connect(queue_address)
    # Signals become something that can be waited for together with requests.
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGTERM, lambda *_: None)
    leaving = False
    queue.send(MORE)
    while True:
        ready, _, _ = zmq.select([queue, woken], [], [], ASK_AGAIN / 1000)
        if woken in ready:
            os.read(woken, 1)
            queue.send(BYE)
            leaving = True
        if queue in ready:
            message = queue.recv()
            if message == BYE:
                break
            for part in answer(message):
                answers.send(part)
        if not leaving:
            queue.send(MORE)
    # Waits until the last answer is out.
    context.destroy(linger=5000)


if __name__ == "__main__":
    main(*sys.argv[1:])
