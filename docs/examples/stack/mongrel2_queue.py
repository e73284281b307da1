"""Hands Mongrel2's requests to workers that have asked for one.

Mongrel2 pushes each request to the worker whose turn it is, and what was pushed to a worker that
leaves is lost. With this in between, a worker takes one request at a time and may say goodbye: then
nothing is on its way to it any more. No code of the application runs here, so this stays when workers
are replaced.

    Mongrel2 --requests--> this --one at a time--> worker --answers--> Mongrel2
"""

import collections
import signal
import sys

import zmq

# What a worker says: it wants a request; it wants no more of them (and hears the same when it is so).
MORE, BYE = b"more", b"bye"


class Queue:
    def __init__(self, requests, workers):
        context = zmq.Context()
        self.requests = context.socket(zmq.PULL)
        self.requests.connect(requests)
        self.workers = context.socket(zmq.ROUTER)
        # To be told when a worker has died, instead of sending into the void.
        self.workers.router_mandatory = True
        self.workers.bind(workers)
        self.idle = collections.OrderedDict()
        self.kept = None

    def run(self):
        while True:
            wanted = self.idle and self.kept is None
            ready, _, _ = zmq.select([self.workers] + [self.requests] * bool(wanted), [], [])
            if self.workers in ready:
                self.hear(*self.workers.recv_multipart())
            if self.requests in ready:
                self.kept = self.requests.recv()
            if self.kept is not None:
                self.hand_out()

    def hear(self, worker, word):
        if word == MORE:
            self.idle[worker] = True
        elif word == BYE:
            self.idle.pop(worker, None)
            self.workers.send_multipart([worker, BYE])

    def hand_out(self):
        while self.idle:
            worker, _ = self.idle.popitem(last=False)
            try:
                self.workers.send_multipart([worker, self.kept])
            except zmq.ZMQError as error:
                if error.errno != zmq.EHOSTUNREACH:
                    raise
            else:
                self.kept = None
                return


if __name__ == "__main__":
    # A reload means the workers.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    Queue(*sys.argv[1:]).run()
