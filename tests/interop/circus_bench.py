"""`status` over one connection with 100 processes: requests per second and median latency, and what the daemon uses
when nobody asks. By hand, for docs/performance.md:

    python circus_bench.py ENDPOINT PID [SECONDS]

for the daemon with this endpoint and process id, circusd or kingpole-manager.
"""

import json
import statistics
import sys
import time

import zmq


def used(pid):
    """CPU seconds so far."""
    with open("/proc/%s/stat" % pid) as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / 100


def main(endpoint, pid, seconds="5"):
    seconds = float(seconds)
    before = used(pid)
    time.sleep(seconds)
    idle = (used(pid) - before) / seconds * 100
    one = zmq.Context().socket(zmq.DEALER)
    one.linger = 0
    one.connect(endpoint)
    request = json.dumps({"command": "status", "id": "x", "properties": {}}).encode()
    times = []
    begun = time.perf_counter()
    while time.perf_counter() - begun < seconds:
        at = time.perf_counter()
        one.send(request)
        reply = one.recv()
        times.append(time.perf_counter() - at)
    # Many at once, so that the client's own pauses do not count.
    begun, sent, received = time.perf_counter(), 0, 0
    while received < sent or time.perf_counter() - begun < seconds:
        while sent - received < 50 and time.perf_counter() - begun < seconds:
            one.send(request)
            sent += 1
        one.recv()
        received += 1
    at_once = received / (time.perf_counter() - begun)
    statuses = json.loads(reply)["statuses"]
    print(
        "%d watchers: one at a time %.0f/s, median %.0f us, 99%% %.0f us; 50 at once %.0f/s; idle %.2f %% CPU"
        % (
            len(statuses),
            len(times) / seconds,
            statistics.median(times) * 1e6,
            statistics.quantiles(times, n=100)[98] * 1e6,
            at_once,
            idle,
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
