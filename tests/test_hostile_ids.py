"""Ids that would be paths: no door takes them for a name, and nothing is written outside the root."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import httpx

from tasks import lake
from tasks.curation import curate_batches, pending_batches
from tasks.landing.mqtt import _record
from tasks.landing.spool import SpoolWriter, collect
from tests.landing.door_server import IONOGRAM, Lines, Server

HOSTILE = [
    "../../escape",
    "/etc/escape",
    "..",
    ".escape",
    "a/../../escape",
    "escape\x00",
    "a\\..\\escape",
    "e" * 65,
    "escape\n",
    "%2e%2e%2fescape",
]


def test_no_door_takes_a_path_for_a_name(tmp_path: Path) -> None:
    home = tmp_path / "a" / "b" / "home"
    server = Server(home)
    lines = Lines(server)
    for hostile in HOSTILE:
        item = {**IONOGRAM, "sounder_id": hostile}
        receipt = httpx.post(f"{server.url}/ionogram", json=item).json()["receipts"][0]
        assert receipt["status"] == "rejected", hostile
        lines.send(item)
        assert lines.statuses(1) == [["rejected"]]
        assert httpx.post(f"{server.url}/register", json={"sounder_id": hostile}).status_code == 400
        for path in ("", "/history"):
            answer = httpx.get(
                f"{server.url}/sounders/{quote(hostile, safe='')}{path}",
                headers={"authorization": "Bearer x"},
            )
            assert answer.status_code in (401, 404)
    lines.close()
    server.landed()
    settings = server.settings
    # What an operator's client could publish: stations are held to their own topic by the broker.
    with SpoolWriter(settings.spool_root / "mqtt") as writer:
        writer.append_many(
            [
                _record(f"nvis/{dataset}/{hostile}", b"{}")
                for hostile in HOSTILE
                for dataset in ("ionograms", "../../escape")
            ]
        )
    collect(settings.spool_root, settings.lake_root)
    curate_batches(pending_batches(settings), settings=settings)
    assert len(lake.read("ionograms", settings=settings)) == 0
    assert len(lake.read("quarantine", settings=settings)) >= 3 * len(HOSTILE)
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["home"]
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert not [path for path in tmp_path.rglob("*") if "escape" in path.name or path.name in ("eeee", "..")]
    assert not Path("/etc/escape").exists()
