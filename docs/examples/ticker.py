"""Prints numbered lines: when none is missing in the log, nothing was lost on the way."""

import itertools
import os
import time

for number in itertools.count(1):
    print("line %d of pid %d" % (number, os.getpid()), flush=True)
    time.sleep(0.2)
