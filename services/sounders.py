"""What sounders say of themselves, over HTTP.

    POST /register                 registers, or with the sounder's credential changes; answers the credential, once
    GET  /sounders/{id}            the present metadata
    GET  /sounders/{id}/history    every version of them, oldest first

Reading needs the sounder's own credential: metadata may say where somebody lives.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from services.requests import answer, authenticate, receive
from tasks import catalog
from tasks.catalog import CatalogError, Sounder, SounderVersion
from tasks.landing.door import CHALLENGE, RETRY_CATALOG_S, Door, Problem
from tasks.settings import TIERS, UNDECLARED
from tasks.submissions import Delivery

log = logging.getLogger("services.gateway")

DESCRIBED = ("kind", "name", "latitude_deg", "longitude_deg", "altitude_m", "details")


class Sounders:
    """The routes of registration and metadata."""

    def __init__(self, door: Door) -> None:
        self.door = door
        # A catalog that is locked lets each wait for long: not in the threads that judge large batches.
        self._threads = ThreadPoolExecutor(2, "catalog")

    def routes(self) -> list[Route]:
        """To be mounted at the root."""
        return [
            Route("/register", self.post_register, methods=["POST"]),
            Route("/sounders/{sounder_id}", self.get_sounder, methods=["GET"]),
            Route("/sounders/{sounder_id}/history", self.get_history, methods=["GET"]),
        ]

    async def post_register(self, request: Request) -> Response:
        self.door.admit_registration(request.client.host if request.client else "")
        async with receive(request, self.door) as (credential_of, _, delivery):
            described = _metadata(delivery)
        sounder_id = described["sounder_id"]
        if credential_of is not None and credential_of != sounder_id:
            raise _not_yours(credential_of, sounder_id)

        def register() -> tuple[str | None, Sounder | None]:
            engine = catalog.open_catalog(self.door.settings)
            if credential_of is None and catalog.get_sounder(engine, sounder_id) is not None:
                detail = f"{sounder_id!r} is registered: to change its metadata send its credential as bearer token"
                raise Problem(409, "Registered already", detail)
            # Whoever comes with a credential gets no other: one that was revoked a moment ago must not renew itself.
            credential = catalog.register_sounder(
                engine, **described, now=datetime.now(UTC), issue_credential=credential_of is None
            )
            return credential, catalog.get_sounder(engine, sounder_id)

        try:
            credential, sounder = await asyncio.get_running_loop().run_in_executor(self._threads, register)
        except CatalogError as error:
            log.error("event=register-failed sounder=%s reason=%r", sounder_id, str(error))
            detail = f"nothing was registered: {error.reason}; send it again later"
            raise Problem(503, "Cannot register", detail, Retry_After=str(RETRY_CATALOG_S)) from error
        assert sounder is not None
        self.door.registered(sounder_id, described["details"].get("tier") or UNDECLARED)
        log.info("event=registered sounder=%s version=%d", sounder_id, sounder.version)
        said = {"sounder_id": sounder_id, "version": sounder.version}
        return answer(200, said) if credential is None else answer(201, {**said, "credential": credential})

    async def get_sounder(self, request: Request) -> Response:
        sounder_id = await self._own(request)
        sounder = await self.door.ask(lambda engine: catalog.get_sounder(engine, sounder_id))
        assert sounder is not None  # it has a credential
        times = {"registered_at": _text(sounder.registered_at), "valid_from": _text(sounder.changed_at)}
        return answer(200, {"sounder_id": sounder_id, **_described(sounder), **times})

    async def get_history(self, request: Request) -> Response:
        sounder_id = await self._own(request)
        versions = await self.door.ask(lambda engine: catalog.sounder_history(engine, sounder_id))
        history = [{**_described(one), "valid_from": _text(one.valid_from)} for one in versions]
        return answer(200, {"sounder_id": sounder_id, "versions": history})

    async def _own(self, request: Request) -> str:
        """The sounder of the path, once its own credential has been seen."""
        credential_of = await authenticate(request, self.door)
        sounder_id: str = request.path_params["sounder_id"]
        if credential_of is None:
            detail = f"send the credential of {sounder_id!r}"
            raise Problem(401, "Not authorized", detail, WWW_Authenticate=CHALLENGE)
        if credential_of != sounder_id:
            raise _not_yours(credential_of, sounder_id)
        return sounder_id


class _Metadata(msgspec.Struct, forbid_unknown_fields=False):
    """What a sounder says of itself."""

    sounder_id: str
    kind: str = "ionosonde"
    name: str = ""
    latitude_deg: float | None = None
    longitude_deg: float | None = None
    altitude_m: float | None = None


def _metadata(delivery: Delivery) -> dict[str, Any]:
    if delivery.faults:
        raise Problem(400, "Bad metadata", delivery.faults[0].removeprefix("decode: "))
    if delivery.envelope is not None or len(delivery.values) != 1:
        raise Problem(400, "Bad metadata", "the body must be one object with a sounder_id")
    document = delivery.values[0]
    try:
        known = msgspec.structs.asdict(msgspec.convert(document, _Metadata))
    except msgspec.ValidationError as error:
        raise Problem(400, "Bad metadata", str(error)) from error
    if not _is_sounder_id(known["sounder_id"]):
        detail = "sounder_id must be 1 to 64 letters, digits or _ . - and begin with a letter or digit"
        raise Problem(400, "Bad metadata", detail)
    for name, low, high in (
        ("latitude_deg", -90, 90),
        ("longitude_deg", -180, 360),
        ("altitude_m", -500, 100_000),
    ):
        value = known[name]
        if value is not None and not low <= value <= high:
            raise Problem(400, "Bad metadata", f"{name} must be between {low} and {high}, got {value}")
    if known["longitude_deg"] is not None and known["longitude_deg"] > 180:
        known["longitude_deg"] -= 360
    if len(known["kind"]) > 32 or len(known["name"]) > 200:
        raise Problem(400, "Bad metadata", "kind has at most 32 characters, name at most 200")
    details = {name: value for name, value in document.items() if name not in known}
    if details.get("tier") not in (None, *TIERS):
        raise Problem(400, "Bad metadata", f"tier must be one of {', '.join(TIERS)}, or left out")
    return {**known, "details": details}


def _is_sounder_id(text: str) -> bool:
    plain = text.replace("_", "").replace(".", "").replace("-", "")
    return 0 < len(text) <= 64 and text[0].isalnum() and plain.isalnum() and text.isascii()


def _described(version: Sounder | SounderVersion) -> dict[str, Any]:
    return {"version": version.version, **{name: getattr(version, name) for name in DESCRIBED}}


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _not_yours(credential_of: str, sounder_id: str) -> Problem:
    return Problem(403, "Not yours", f"the credential belongs to {credential_of!r}, not to {sounder_id!r}")
