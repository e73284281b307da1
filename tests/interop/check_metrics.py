"""Reads metrics with Prometheus's own parser and prints them as JSON: {name: {"type", "help", "samples": [[name, labels, value]]}}.

    python check_metrics.py < PAGE

Fails when they are not what the format asks for.
"""

import json
import sys

from prometheus_client.parser import text_string_to_metric_families

page = sys.stdin.read()
families = {}
seen = set()
for family in text_string_to_metric_families(page):
    assert family.name not in families, "%s twice" % family.name
    assert family.documentation, "%s without HELP" % family.name
    assert family.type in ("gauge", "counter"), "%s is %s" % (family.name, family.type)
    samples = []
    for sample in family.samples:
        key = (sample.name, tuple(sorted(sample.labels.items())))
        assert key not in seen, "%s twice" % (key,)
        seen.add(key)
        if family.type == "counter":
            assert sample.name == family.name + "_total", sample.name
            assert sample.value >= 0, sample
        samples.append([sample.name, sample.labels, sample.value])
    families[family.name] = {"type": family.type, "help": family.documentation, "samples": samples}
lines = sum(1 for line in page.splitlines() if not line.startswith("#"))
assert lines == len(seen), "%d samples in %d lines" % (len(seen), lines)
json.dump(families, sys.stdout)
