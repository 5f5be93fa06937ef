"""A sounder's metadata over HTTP: registered once, changed with its credential, every version kept, for itself to read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tasks import catalog
from tests.landing.door_server import IONOGRAM, Lines, Server

METADATA = {
    "sounder_id": "TST01",
    "name": "Test",
    "latitude_deg": 50.0,
    "longitude_deg": 350.0,
    "antenna": "delta",
}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    started = Server(tmp_path)
    yield started
    started.stop()


def register(server: Server, metadata: dict[str, object], credential: str | None = None) -> httpx.Response:
    return httpx.post(f"{server.url}/register", json=metadata, headers=bearer(credential), timeout=30)


def get(server: Server, path: str, credential: str | None = None) -> httpx.Response:
    return httpx.get(f"{server.url}/sounders/{path}", headers=bearer(credential), timeout=30)


def bearer(credential: str | None) -> dict[str, str]:
    return {} if credential is None else {"authorization": f"Bearer {credential}"}


def test_history_is_kept_and_the_credential_is_shown_once(server: Server) -> None:
    first = register(server, {**METADATA})
    assert (first.status_code, first.json()["version"]) == (201, 1)
    credential = first.json()["credential"]
    moved = {**METADATA, "latitude_deg": 51.0, "tier": "GOLD"}
    for _ in range(2):  # the same again is no new version
        again = register(server, moved, credential)
        assert (again.status_code, again.json()) == (200, {"sounder_id": "TST01", "version": 2})
    now = get(server, "TST01", credential).json()
    assert now["version"] == 2
    assert (now["latitude_deg"], now["longitude_deg"]) == (51.0, -10.0)
    assert now["details"] == {"antenna": "delta", "tier": "GOLD"}
    assert now["registered_at"] < now["valid_from"]
    history = get(server, "TST01/history", credential).json()
    assert [(one["version"], one["latitude_deg"]) for one in history["versions"]] == [(1, 50.0), (2, 51.0)]
    assert history["versions"][0]["valid_from"] == now["registered_at"]
    assert history["versions"][1] == {name: now[name] for name in history["versions"][1]}
    assert credential not in get(server, "TST01", credential).text


def test_nobody_else_reads_or_changes_it(server: Server) -> None:
    mine = register(server, {**METADATA}).json()["credential"]
    others = register(server, {**METADATA, "sounder_id": "OTHER"}).json()["credential"]
    for path in ("TST01", "TST01/history"):
        assert get(server, path, mine).status_code == 200
        assert get(server, path).status_code == 401
        assert get(server, path).headers["www-authenticate"].startswith("Bearer")
        assert get(server, path, "wrong").status_code == 401
        assert get(server, path, others).status_code == 403
    assert get(server, "NOBODY", mine).status_code == 403  # who is registered is not told to others
    assert register(server, {**METADATA}).status_code == 409
    assert register(server, {**METADATA, "name": "Mine"}, others).status_code == 403
    assert register(server, {**METADATA, "tier": "DIAMOND"}, mine).status_code == 400
    assert len(catalog.sounder_history(catalog.open_catalog(server.settings), "TST01")) == 1


def test_each_tier_has_its_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tasks.landing import door

    monkeypatch.setattr(door, "BURST_S", 10.0)
    rates = {"platinum": 4.0, "gold": 3.0, "silver": 2.0, "bronze": 1.0, "sounder": 0.5}
    server = Server(tmp_path, **{f"{name}_items_per_s": rate for name, rate in rates.items()})
    for number, (tier, rate) in enumerate(rates.items()):
        name = f"TST{number}"
        declared = {"tier": tier.upper()} if tier != "sounder" else {}
        credential = register(server, {"sounder_id": name, **declared}).json()["credential"]
        item = {**IONOGRAM, "sounder_id": name}
        n_allowed = int(rate * 10)
        lines = Lines(server)
        lines.send({"credential": credential}, [item] * n_allowed, [item] * 5)
        assert lines.answer()["sounder_id"] == name
        assert len(lines.answer()["receipts"]) == n_allowed
        refused = lines.answer()
        assert refused["status"] == 429
        assert refused["retry_after_s"] >= 1
        assert declared.get("tier", "undeclared") in refused["detail"]
        lines.close()
        over_http = httpx.post(
            f"{server.url}/ionogram", json=[item] * 5, headers=bearer(credential), timeout=30
        )
        assert (over_http.status_code, int(over_http.headers["retry-after"]) >= 1) == (429, True)
    server.stop()


def test_one_address_registers_so_often_and_no_oftener(tmp_path: Path) -> None:
    server = Server(tmp_path, registrations_per_min=3)
    statuses = [register(server, {"sounder_id": f"S{number}"}).status_code for number in range(4)]
    assert statuses == [201, 201, 201, 429]
    refused = register(server, {"sounder_id": "S9"})
    assert 1 <= int(refused.headers["retry-after"]) <= 20
    assert "3 registrations per minute" in refused.json()["detail"]
    other = httpx.post(
        f"{server.url}/register",
        json={"sounder_id": "S9"},
        headers={"x-forwarded-for": "192.0.2.7"},
        timeout=30,
    )
    assert other.status_code == 201  # behind a proxy of this host it is the proxy's client that counts
    server.stop()
