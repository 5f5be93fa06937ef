"""Names and meanings of the metrics, each once: dashboards, rules and the tests of both go by them."""

from __future__ import annotations

from typing import NamedTuple


class Metric(NamedTuple):
    """Name and help of a family, in the order in which prometheus_client takes them."""

    name: str
    help: str


INGESTION_LATENCY = Metric(
    "nvis_ingestion_latency_seconds",
    "From the arrival of a delivery at a door until it is on disk, in seconds.",
)
OBSERVATIONS = Metric(
    "nvis_observations_total",
    "Observations that landed, by door and receipt; by MQTT and pull they are judged later and count as landed.",
)
OBSERVATIONS_BY_TIER = Metric(
    "nvis_observations_by_tier", "Observations that the last nowcast used, by the tier of their sounder."
)
INFORMATION_GAIN = Metric(
    "nvis_information_gain_total", "Information that the sounders brought to the nowcasts, in nats."
)
SOUNDER_INFORMATION_GAIN = Metric(
    "nvis_sounder_information_gain",
    "Information of a sounder in the last nowcast, in nats; of those that brought most.",
)
CYCLE_DURATION = Metric(
    "nvis_filter_cycle_duration_seconds", "Duration of a nowcast run from start to end, in seconds."
)
ERRORS = Metric(
    "nvis_errors_total", "Errors, by component: what services log as such, and flow runs that failed."
)

LAST_CYCLE_DURATION = Metric(
    "nvis_cycle_last_duration_seconds", "Duration of the last nowcast run, in seconds."
)
CYCLE_VALID = Metric(
    "nvis_cycle_valid_timestamp_seconds", "Valid time of the last nowcast, seconds since 1970."
)
CYCLE_ENDED = Metric(
    "nvis_cycle_end_timestamp_seconds", "When the last nowcast was done, seconds since 1970."
)
CYCLE_STATE = Metric(
    "nvis_cycle_state", "1 for what the last nowcast came to: analysis, climatology or failed."
)
CYCLE_OBSERVATIONS = Metric("nvis_cycle_observations", "Observations in the window of the last nowcast.")
CYCLE_STATIONS = Metric("nvis_cycle_stations", "Stations in the window of the last nowcast.")
EFFECTIVE_INDEX = Metric("nvis_cycle_effective_index", "Effective index IG12 of the last nowcast.")

MISSED_CYCLES = Metric(
    "nvis_missed_cycles", "Missed cycles with observations that the last run of catch-up left for the next."
)

FLOW_RUNS = Metric("nvis_flow_runs_total", "Flow runs that ended, by flow and outcome.")
FLOW_DURATION = Metric("nvis_flow_duration_seconds", "Duration of flow runs, in seconds.")
FLOW_SUCCESS = Metric(
    "nvis_flow_last_success_timestamp_seconds", "When a run of the flow last succeeded, seconds since 1970."
)

CURATED = Metric("nvis_curated_items_total", "Items that curation judged, by outcome.")
QUARANTINED = Metric("nvis_quarantined_items_total", "Reasons for which items went to quarantine.")
PENDING_BATCHES = Metric(
    "nvis_pending_batches", "Landed batches that the last run of land left for the next."
)
NEWEST_OBSERVATION = Metric(
    "nvis_newest_observation_timestamp_seconds",
    "Time of the newest observation of a source, seconds since 1970.",
)

SKILL_RMSE = Metric(
    "nvis_skill_rmse",
    "Root mean square error at held-out stations over 30 days in the quantity's unit, of the analysis and references.",
)
SKILL_COVERAGE = Metric(
    "nvis_skill_coverage", "Share of held-out observations within the interval of that probability."
)
SKILL_SCORED = Metric("nvis_skill_observations", "Held-out observations that the skill is computed from.")

QUEUE = Metric("nvis_queue_messages", "Messages that wait in the broker's queue for the next run of land.")
SPOOL_MESSAGES = Metric("nvis_spool_messages", "Messages that wait in the spool for the next run of land.")
SPOOL_BYTES = Metric("nvis_spool_bytes", "Bytes that wait in the spool for the next run of land.")
DISK_FREE = Metric("nvis_disk_free_bytes", "Free bytes of the disk that holds this folder.")
DISK_SIZE = Metric("nvis_disk_size_bytes", "Size in bytes of the disk that holds this folder.")
PUBLIC_VALID = Metric(
    "nvis_public_valid_timestamp_seconds", "Valid time of what products/current shows, seconds since 1970."
)
BACKUP_TAKEN = Metric(
    "nvis_backup_last_timestamp_seconds", "When the last backup of a kind was taken, seconds since 1970."
)
PROCESS_MEMORY = Metric(
    "nvis_process_resident_memory_bytes",
    "Resident memory of a process and what it started; of flow runs the peak of the last one.",
)
PROCESS_CPU = Metric(
    "nvis_process_cpu_seconds_total", "Processor time of a process, or of all runs of a flow, in seconds."
)
PROCESS_UP = Metric("nvis_process_up", "1 while the process that `autonvis up` started runs.")
HTTP_DURATION = Metric(
    "nvis_http_request_duration_seconds", "From a request until its whole answer, in seconds."
)
