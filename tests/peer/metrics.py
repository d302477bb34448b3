"""Reads OpenMetrics text with the parser of the Prometheus project and prints the type and name of each sample, once.

Whatever the parser does not accept ends it with an error.
"""

import sys

from prometheus_client.openmetrics.parser import text_string_to_metric_families

with open(sys.argv[1], encoding="utf-8") as file:
    families = list(text_string_to_metric_families(file.read()))
names = [family.name for family in families]
assert len(names) == len(set(names)), "a metric comes twice"
seen = {f"{family.type} {sample.name}" for family in families for sample in family.samples}
print("\n".join(sorted(seen)))
