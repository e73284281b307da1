"""Plugins as people write them, run by the manager as Circus ran them."""

from circus.plugins import CircusPlugin
from circus.plugins.statsd import StatsdEmitter


class Recorder(CircusPlugin):
    """Writes down what it hears, and what it is answered."""

    name = "recorder"

    def __init__(self, *args, **config):
        super().__init__(*args, **config)
        self.file = config["file"]

    def write(self, text):
        with open(self.file, "a") as f:
            f.write(text + "\n")

    def handle_init(self):
        # Not connected yet, so nothing can be asked.
        self.asked = False
        self.write("ready")

    def handle_recv(self, data):
        watcher, action, message = self.split_data(data)
        self.write("%s.%s %s" % (watcher, action, self.load_message(message).get("process_pid")))
        if action == "updated" and not self.asked:
            self.asked = True
            self.cast("incr", name="sleeper")
            self.write("count %d" % self.call("numwatchers")["numwatchers"])

    def handle_stop(self):
        pass


class TheirEmitter(StatsdEmitter):
    """Circus's own, under a name that is not built in."""
