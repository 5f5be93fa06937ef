"""Backups in an object store: a real S3 interface (moto's server) on the loopback address."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tasks import catalog
from tasks.backup import make_backup
from tasks.backup_archive import read_manifest
from tasks.backup_retention import prune_backups
from tasks.backup_store import BackupError, Destination
from tasks.restore import restore
from tasks.settings import Settings
from tests.small_root import catalog_rows, checksums, land, observations, spool

pytest.importorskip("s3fs", reason="s3fs is not installed: object stores need `pip install s3fs`")
server = pytest.importorskip("moto.server", reason="moto is not installed: no S3 to try")


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    import boto3

    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    running.start()
    host, port = running.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    for name, value in (
        ("ACCESS_KEY_ID", "me"),
        ("SECRET_ACCESS_KEY", "mine"),
        ("DEFAULT_REGION", "us-east-1"),
    ):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket="backups")
    yield "s3://backups/autonvis"
    running.stop()


@pytest.mark.filterwarnings("default::DeprecationWarning")
def test_a_root_goes_to_a_bucket_and_comes_back(bucket: str, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "var", backup_to=bucket)
    settings.home.mkdir()
    spool(settings, observations()[:200], datetime.now(UTC))
    land(settings)
    make_backup(settings)
    spool(settings, observations()[200:300], datetime.now(UTC))
    land(settings)
    increment = make_backup(settings, "increment")
    before, rows = checksums(settings.lake_root), catalog_rows(settings)
    assert prune_backups(settings, now=datetime.now(UTC)).archives == []

    catalog._open.cache_clear()
    shutil.rmtree(settings.home)
    assert restore(settings).archive == increment.archive
    assert checksums(settings.lake_root) == before
    assert catalog_rows(settings) == rows

    destination = Destination(bucket)
    sha256 = read_manifest(destination, destination.archives()[0]).files[0].sha256
    destination.remove_object(sha256)
    with pytest.raises(BackupError, match=r"cannot be restored: .*is missing"):
        restore(settings, overwrite=True)
    assert checksums(settings.lake_root) == before
    with pytest.raises(BackupError, match=r"s3://nosuch-bucket/autonvis cannot be written \(.*bucket"):
        make_backup(settings.model_copy(update={"backup_to": "s3://nosuch-bucket/autonvis"}))
