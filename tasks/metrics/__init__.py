"""What Prometheus is told: the doors count as they go, flow runs add to files, the rest is looked at when asked.

`doors.py` counts in the memory of a service, `runs.py` in files under `HOME/run/metrics` by way of `ledger.py`, since
a flow run ends before anybody could ask it; `state.py` looks at spool, queue, disk and processes; `exposition.py` puts
all of it into one page.
"""

from prometheus_client import disable_created_metrics

disable_created_metrics()  # type: ignore[no-untyped-call]  # a gauge beside each counter that no rule reads
