"""A certificate authority of one's own, and server certificates by it: for tests and private networks.

Stations trust `ca.pem`. A public name gets its certificate from a public authority instead (docs/security.md).
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CA_DAYS = 3650
SKEW = timedelta(hours=1)
"""Certificates begin in the past: clocks of stations are not exact."""
HOST = re.compile(
    r"(?=.{1,253}\Z)(\*\.)?([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)*[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\Z"
)


@dataclass(frozen=True)
class Certificate:
    """Files of a server: its certificate, its private key (0600), and what clients have to trust."""

    certificate: Path
    key: Path
    authority: Path
    expires_at: datetime


def make_certificate(
    directory: Path, names: Sequence[str], *, days: int = 397, now: datetime | None = None
) -> Certificate:
    """A server certificate for these names and addresses, by the authority of `directory`, which is made where there is none.

    Raises:
        ValueError: a name is neither a host name nor an address, or `days` is not positive.
    """
    if days < 1 or not names:
        raise ValueError(
            f"days must be 1 or more, and at least one name be given; got {days} and {list(names)}"
        )
    now = now or datetime.now(UTC)
    alternatives = [_alternative(name) for name in names]
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    ca_key, ca = _authority(directory, now)
    key = ec.generate_private_key(ec.SECP256R1())
    expires_at = min(now + timedelta(days=days), ca.not_valid_after_utc)
    certificate = (
        _builder(names[0], key.public_key(), now, expires_at)
        .issuer_name(ca.subject)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
        )
        .sign(ca_key, hashes.SHA256())
    )
    _write_key(directory / "server.key", key)
    _write(directory / "server.pem", _pem(certificate) + _pem(ca), 0o644)
    return Certificate(directory / "server.pem", directory / "server.key", directory / "ca.pem", expires_at)


def _authority(directory: Path, now: datetime) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key_path, path = directory / "ca.key", directory / "ca.pem"
    if key_path.is_file() and path.is_file():
        key = serialization.load_pem_private_key(key_path.read_bytes(), None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ValueError(f"{key_path} is not a key that this command made")
        return key, x509.load_pem_x509_certificate(path.read_bytes())
    key = ec.generate_private_key(ec.SECP256R1())
    usage = dict.fromkeys(
        ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
         "encipher_only", "decipher_only"), False,
    )  # fmt: skip
    builder = _builder("AutoNVIS private authority", key.public_key(), now, now + timedelta(days=CA_DAYS))
    certificate = (
        builder.issuer_name(_name("AutoNVIS private authority"))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.KeyUsage(key_cert_sign=True, crl_sign=True, **usage), critical=True)
        .sign(key, hashes.SHA256())
    )
    _write_key(key_path, key)
    _write(path, _pem(certificate), 0o644)
    return key, certificate


def _builder(
    name: str, public_key: ec.EllipticCurvePublicKey, now: datetime, expires_at: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(expires_at)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        if not HOST.match(name):
            raise ValueError(f"{name!r} is neither a host name nor an address") from None
        return x509.DNSName(name)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    encoded = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    _write(path, encoded, 0o600)


def _write(path: Path, content: bytes, mode: int) -> None:
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
    os.replace(partial, path)
