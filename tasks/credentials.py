"""Credentials of sounders: who has one, a new one for an old one, and their end.

The catalog keeps hashes only (SHA-256 of 256 random bits, and Mosquitto's own), so a credential that was lost is replaced, not looked up. Its
name, for lists and logs, is the beginning of its hash. `expires_at` is when it ends, or when it was revoked.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from tasks.catalog import Credential, Sounder, add_credential, is_valid

NAME_CHARACTERS = 8


@dataclass(frozen=True)
class Issued:
    """A credential that was issued; `state` is valid, expired or revoked."""

    sounder_id: str
    name: str
    issued_at: datetime
    expires_at: datetime | None
    state: str


def list_credentials(
    engine: Engine, sounder_id: str | None = None, *, now: datetime, with_ended: bool = False
) -> list[Issued]:
    """The credentials of one sounder or of all, by sounder and time of issue; those that have ended only when asked for."""
    query = select(Credential).order_by(Credential.sounder_id, Credential.issued_at)
    query = query if sounder_id is None else query.where(Credential.sounder_id == sounder_id)
    with Session(engine.execution_options(is_reading=True)) as session:
        issued = [
            Issued(
                row.sounder_id,
                row.credential_hash[:NAME_CHARACTERS],
                row.issued_at,
                row.expires_at,
                "revoked"
                if row.is_revoked
                else "expired"
                if row.expires_at is not None and row.expires_at <= now
                else "valid",
            )
            for row in session.scalars(query)
        ]
    return [one for one in issued if with_ended or one.state == "valid"]


def rotate(
    engine: Engine,
    sounder_id: str,
    *,
    now: datetime,
    expires_at: datetime | None = None,
    overlap: timedelta = timedelta(0),
) -> str:
    """A new credential for a registered sounder, shown only this once; those it had end after `overlap`, by default at once.

    Raises:
        ValueError: the sounder is not registered, `expires_at` is past, `overlap` is negative.
    """
    if expires_at is not None and expires_at <= now:
        raise ValueError(f"expires_at: {expires_at.isoformat()} is past; name a time after now")
    if overlap < timedelta(0):
        raise ValueError(f"overlap: {overlap} is negative")
    with Session(engine) as session, session.begin():
        if session.get(Sounder, sounder_id) is None:
            raise ValueError(f"sounder_id: {sounder_id!r} is not registered")
        _end(session, sounder_id, now, now + overlap)
        return add_credential(session, sounder_id, now, expires_at)


def revoke(engine: Engine, sounder_id: str, *, now: datetime) -> int:
    """Ends every credential of a sounder at once; returns how many were valid.

    Raises:
        ValueError: the sounder is not registered.
    """
    with Session(engine) as session, session.begin():
        if session.get(Sounder, sounder_id) is None:
            raise ValueError(f"sounder_id: {sounder_id!r} is not registered")
        return _end(session, sounder_id, now, now)


def ended_between(engine: Engine, after: datetime, until: datetime) -> set[str]:
    """Sounders of which a credential expired or was revoked in (after, until]."""
    query = select(Credential.sounder_id).where(Credential.expires_at > after, Credential.expires_at <= until)
    with Session(engine.execution_options(is_reading=True)) as session:
        return set(session.scalars(query))


def _end(session: Session, sounder_id: str, now: datetime, at: datetime) -> int:
    valid = session.scalars(
        select(Credential).where(Credential.sounder_id == sounder_id, is_valid(now))
    ).all()
    for row in valid:
        row.is_revoked = at <= now
        row.expires_at = at if row.expires_at is None else min(at, row.expires_at)
    return len(valid)
