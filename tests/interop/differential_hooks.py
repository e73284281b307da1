"""Hooks for differential.py: what they answer is in their names."""


def says_yes(watcher, arbiter, hook_name, **arguments):
    return True


def says_no(watcher, arbiter, hook_name, **arguments):
    return False


def fails(watcher, arbiter, hook_name, **arguments):
    raise ValueError("out of order")


def extends(watcher, arbiter, hook_name, pid, stats, **arguments):
    stats["requests"] = 7
    stats["of"] = watcher.name
    return True
