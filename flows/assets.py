"""The assets that runs make, from the landing zones to the products: Prefect's pages and events show their lineage.

An asset is a dataset, not a file: a run adds to it. Telling of one is an event and costs a run nothing on the server.
"""

from __future__ import annotations

from prefect.assets import Asset, AssetProperties


def _asset(key: str, name: str, description: str) -> Asset:
    return Asset(key=f"autonvis://{key}", properties=AssetProperties(name=name, description=description))


LANDING = _asset("lake/landing", "landing", "What sounders and sources sent, exactly as it came.")
IONOGRAMS = _asset("lake/ionograms", "ionograms", "Observations that passed their contract.")
MEASUREMENTS = _asset(
    "lake/measurements", "measurements", "Measurements of sounders that passed their contract."
)
QUARANTINE = _asset(
    "lake/quarantine", "quarantine", "What failed its contract, with every reason and its bytes."
)
ANALYSIS = _asset(
    "lake/analysis", "analysis", "The ionosphere of each cycle, with its uncertainty, now and ahead."
)
VERIFICATION = _asset(
    "lake/verification",
    "verification",
    "What each cycle said of stations that it was not shown, and its score.",
)
PRODUCTS = _asset(
    "products/current", "products", "Map, GeoJSON, bulletin and description of the newest nowcast."
)
REPORTS = _asset("products/reports", "reports", "The daily reports on sounders.")
