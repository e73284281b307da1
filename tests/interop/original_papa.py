"""Runs Papa's own daemon in the foreground: original_papa.py -u PATH | -p PORT.

Only used to check that our scripts and transcripts describe Papa and not our idea of it.
"""

from papa.server import main

main()
