"""Says by the library `sdnotify` how it is: what it is told on the lines of a file that grows."""

import sys
import time

import sdnotify

speaks = sdnotify.SystemdNotifier()
with open(sys.argv[1], "rb") as orders:
    # What was there before was meant for another process.
    orders.seek(0, 2)
    speaks.notify("STATUS=begun")
    while True:
        order = orders.readline().strip()
        if order:
            speaks.notify(order.decode())
        else:
            time.sleep(0.02)
