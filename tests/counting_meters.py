"""A sink of metrics that keeps what Prometheus would be told, and takes what the catalog lists alone."""

import collections

from llamafarm_ray.telemetry.catalog import EVERY_METER

BY_NAME = {meter.name: meter for meter in EVERY_METER}


class CountingMeters:
    """What Prometheus would be told, by name and labels in the order of their names."""

    def __init__(self):
        self.counters, self.observed, self.gauges = collections.Counter(), collections.defaultdict(list), {}

    def add(self, name, amount, labels):
        assert amount > 0
        self.counters[self._key("counter", name, labels)] += amount

    def observe(self, name, value, labels):
        self.observed[self._key("histogram", name, labels)].append(value)

    def set(self, name, value, labels):
        self.gauges[self._key("gauge", name, labels)] = value

    def forget(self, name):
        for key in [key for key in self.gauges if key[0] == name]:
            del self.gauges[key]

    def keep_gauges_until(self, ended, refresh):
        assert not ended.is_set()
        refresh()

    def _key(self, kind, name, labels):
        assert (BY_NAME[name].kind, set(BY_NAME[name].labels)) == (kind, set(labels)), name
        return name, *(labels[key] for key in sorted(labels))
