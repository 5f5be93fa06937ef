"""Files of the products and reports as they lie on disk: nothing outside their folders, each with its type."""

from __future__ import annotations

import os
import re
from pathlib import Path

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, RedirectResponse, Response
from starlette.staticfiles import NotModifiedResponse, StaticFiles
from starlette.types import Scope

from services.web_answers import CACHE, GEOJSON, HTML, JSON, PNG

TYPES = {
    ".html": HTML,
    ".json": JSON,
    ".geojson": GEOJSON,
    ".png": PNG,
    ".txt": "text/plain; charset=utf-8",
    ".csv": "text/csv; charset=utf-8",
    ".parquet": "application/vnd.apache.parquet",
}
DAY = re.compile(r"\d{4}-\d{2}-\d{2}\Z", re.ASCII)
"""Name of a report's folder; beside them lie those that are being written."""


class Files(StaticFiles):
    """The files below a folder, which may be a symbolic link and need not be there yet; none whose name begins with a dot."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory=directory, check_dir=False, html=True)
        self.folder = directory

    async def check_config(self) -> None:
        """Before the first cycle there is nothing to serve: that is no fault."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        # To a folder's own slash, by path alone: behind a proxy the address that we see is not the public one.
        return RedirectResponse(f"{scope['path']}/") if isinstance(response, RedirectResponse) else response

    def lookup_path(self, path: str) -> tuple[str, os.stat_result | None]:
        if any(part.startswith(".") and part != "." for part in path.split("/")):
            return "", None
        # The folder is resolved once: between two looks `products/current` may have become another.
        root = os.path.realpath(self.folder)
        full = os.path.realpath(os.path.join(root, path))
        if os.path.commonpath([full, root]) != root:
            return "", None
        try:
            return full, os.stat(full)
        except (FileNotFoundError, NotADirectoryError):
            return "", None

    def file_response(
        self,
        full_path: str | os.PathLike[str],
        stat_result: os.stat_result,
        scope: Scope,
        status_code: int = 200,
    ) -> Response:
        media_type = TYPES.get(Path(full_path).suffix)
        if media_type is None:
            raise HTTPException(404)
        response = FileResponse(full_path, status_code, CACHE, media_type=media_type, stat_result=stat_result)
        if self.is_not_modified(response.headers, Headers(scope=scope)):
            return NotModifiedResponse(response.headers)
        return response


class Reports(Files):
    """The daily reports: `<day>/index.html` and what belongs to it."""

    def lookup_path(self, path: str) -> tuple[str, os.stat_result | None]:
        return super().lookup_path(path) if DAY.match(path.split("/")[0]) else ("", None)


def report_days(folder: Path) -> list[str]:
    """Days that have a report, newest first."""
    if not folder.is_dir():
        return []
    return sorted((one.name for one in folder.iterdir() if DAY.match(one.name)), reverse=True)
