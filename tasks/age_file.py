"""Encryption by a passphrase in the age format (scrypt, ChaCha20-Poly1305): `age -d FILE` opens it without this system."""

from __future__ import annotations

from tasks.backup_store import BackupError
from tasks.settings import Settings

PASSPHRASE = "AUTONVIS_BACKUP_PASSPHRASE or AUTONVIS_BACKUP_PASSPHRASE_FILE"


def passphrase(settings: Settings) -> str | None:
    """The passphrase of the settings, None when there is none.

    Raises:
        BackupError: the file cannot be read, or is empty.
    """
    if settings.backup_passphrase is not None:
        return settings.backup_passphrase.get_secret_value()
    path = settings.backup_passphrase_file
    if path is None:
        return None
    try:
        text = path.read_text().strip()
    except OSError as error:
        raise BackupError(
            f"AUTONVIS_BACKUP_PASSPHRASE_FILE: {path} cannot be read ({error.strerror})"
        ) from error
    if not text:
        raise BackupError(f"AUTONVIS_BACKUP_PASSPHRASE_FILE: {path} is empty")
    return text


def seal(content: bytes, secret: str) -> bytes:
    import pyrage

    sealed: bytes = pyrage.passphrase.encrypt(content, secret)
    return sealed


def unseal(content: bytes, secret: str) -> bytes:
    """
    Raises:
        BackupError: the passphrase is another one, or the bytes are damaged.
    """
    import pyrage

    try:
        opened: bytes = pyrage.passphrase.decrypt(content, secret)
    except pyrage.DecryptError as error:
        raise BackupError(
            f"the configuration in the backup does not open: the passphrase of {PASSPHRASE} is not the one it was made with "
            f"({error}); without any the rest is restored and the configuration is left out"
        ) from error
    return opened
