"""What an archive carries beside the files of the lake: catalog, broker, Prefect's database, logs, configuration.

What is secret goes into one member, encrypted: settings with passwords, the files of the broker that hold some, and
Prefect's database, whose blocks lie beside their key. Without a passphrase the first two are left out, and the last is
stripped of its blocks.
"""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath

import pyarrow as pa

from tasks import age_file, catalog, database_copy
from tasks.backup_capture import private_files
from tasks.backup_store import BackupError
from tasks.settings import PREFIX, Settings

CATALOG = "catalog.sqlite"
DEFINITIONS = "broker/definitions.json"
SECRET = "secret.tar.zst.age"
ENVIRONMENT = "autonvis.env"
HOME = "home"
"""Folder of the secrets for files that belong below the home folder."""
PROJECT_ROOT = Path(__file__).resolve().parents[1]
PREFECT_DATABASE = ("PREFECT_SERVER_DATABASE_CONNECTION_URL", "PREFECT_API_DATABASE_CONNECTION_URL")
SETTINGS_OF_PREFECT = (
    *PREFECT_DATABASE,
    "PREFECT_API_URL",
    "PREFECT_API_AUTH_STRING",
    "PREFECT_SERVER_API_AUTH_STRING",
)
OWN_SECRET = ("AUTONVIS_BACKUP_PASSPHRASE", "AUTONVIS_BACKUP_PASSPHRASE_FILE")

BROKER_STATE = {"mosquitto": ("mosquitto.db",), "nats": ("jetstream",)}
"""Of each kind of broker what a copy taken while it runs is good for. RabbitMQ's is not: its definitions are exported,
and what it queues is drained into the spool within a minute."""


def gather_catalog(settings: Settings, folder: Path) -> None:
    database_copy.copy_catalog(catalog.open_catalog(settings), folder / CATALOG)


def gather_broker(settings: Settings, folder: Path, definitions: bytes | None) -> None:
    """What a private broker has queued, as far as it can be copied, and its definitions."""
    for kind, names in BROKER_STATE.items():
        for name in names:
            source = settings.home / "broker" / kind / name
            target = folder / "broker" / kind / name
            if source.is_dir():
                shutil.copytree(source, target, ignore_dangling_symlinks=True, copy_function=_copy_if_there)
            elif source.is_file():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target)
    if definitions is not None:
        (folder / DEFINITIONS).parent.mkdir(parents=True, exist_ok=True)
        (folder / DEFINITIONS).write_bytes(definitions)


def gather_logs(settings: Settings, folder: Path, now: datetime) -> None:
    """The logs written to within the days of the settings."""
    since = now - timedelta(days=settings.backup_log_d)
    for path in sorted(settings.log_root.rglob("*")) if settings.log_root.is_dir() else ():
        if path.is_file() and datetime.fromtimestamp(path.stat().st_mtime, UTC) >= since:
            target = folder / "logs" / path.relative_to(settings.log_root)
            target.parent.mkdir(parents=True, exist_ok=True)
            _copy_if_there(path, target)


def gather_secrets(settings: Settings, folder: Path) -> list[str]:
    """Configuration and Prefect's database; returns what was left out, in sentences."""
    notes = []
    passphrase = age_file.passphrase(settings)
    private = folder / "secret"
    private.mkdir()
    try:
        address = prefect_address(settings)
        database = (
            None
            if address is None
            else database_copy.copy_prefect(address, private, with_secrets=passphrase is not None)
        )
        if passphrase is None:
            notes.append(
                f"configuration, keys and passwords of the broker are left out, and Prefect's blocks: set {age_file.PASSPHRASE}"
            )
            if database is not None:
                shutil.move(database, folder / database.name)
        else:
            (private / ENVIRONMENT).write_text(_environment())
            shutil.copy2(PROJECT_ROOT / "prefect.yaml", private / "prefect.yaml")
            if settings.kernel_config is not None:
                shutil.copy2(settings.kernel_config, private / "kernel.toml")
            for path in private_files(settings):
                target = private / HOME / path.relative_to(settings.home)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, target)
            for path in _broker_configuration(settings.home):
                target = private / path.relative_to(settings.home)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, target)
            (folder / SECRET).write_bytes(age_file.seal(_packed(private), passphrase))
    finally:
        shutil.rmtree(private)
    return notes


def open_secrets(member: Path, passphrase: str, folder: Path) -> None:
    """Unpacks what `gather_secrets` encrypted into an empty folder.

    Raises:
        BackupError: the passphrase is another one, or the member is damaged.
    """
    content = age_file.unseal(member.read_bytes(), passphrase)
    try:
        with (
            pa.CompressedInputStream(io.BytesIO(content), "zstd") as packed,
            tarfile.open(fileobj=packed, mode="r|") as tar,
        ):
            # By hand: the filters of `extractall` are not in the Python 3.11.2 of Debian 12.
            for info in tar:
                file = tar.extractfile(info)
                if file is None:  # a folder
                    continue
                if ".." in PurePosixPath(info.name).parts or info.name.startswith("/"):
                    raise BackupError(f"{SECRET} has {info.name}, which lies outside of it")
                target = folder / info.name
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("xb") as copy:
                    shutil.copyfileobj(file, copy)
                target.chmod(info.mode & 0o700)
    except (tarfile.TarError, pa.ArrowInvalid) as error:
        raise BackupError(f"{SECRET} opens, but does not unpack: {error}") from error


def prefect_address(settings: Settings) -> str | None:
    """SQLAlchemy URL of Prefect's database, None when there is none yet."""
    for name in PREFECT_DATABASE:
        if os.environ.get(name):
            return os.environ[name]
    path = settings.home.resolve() / "prefect" / "prefect.db"
    return f"sqlite:///{path}" if path.is_file() else None


def _environment() -> str:
    """The settings in force as lines of an environment file, without what opens it."""
    names = sorted(
        name
        for name in os.environ
        if (name.startswith(PREFIX) and name not in OWN_SECRET) or name in SETTINGS_OF_PREFECT
    )
    return "".join(f"{name}={os.environ[name]}\n" for name in names)


def _broker_configuration(home: Path) -> Iterator[Path]:
    """The small files of a private broker: ports, credentials, password files, configuration."""
    for path in sorted((home / "broker").glob("*/*")):
        is_state = path.name in BROKER_STATE.get(path.parent.name, ())
        if path.is_file() and not is_state and path.suffix not in (".log", ".pid", ".new"):
            yield path


def _packed(folder: Path) -> bytes:
    buffer = pa.BufferOutputStream()
    with (
        pa.CompressedOutputStream(buffer, "zstd") as packed,
        tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as tar,
    ):
        tar.add(folder, arcname=".")
    return bytes(buffer.getvalue())


def _copy_if_there(source: str | Path, target: str | Path) -> None:
    try:
        shutil.copy2(source, target)
    except FileNotFoundError:  # rotated away meanwhile
        return
