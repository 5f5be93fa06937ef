"""The products of a cycle: map, GeoJSON, bulletin and a description, published all at once.

```
products/
  versions/<cycle_id>-<digest>/   whole, immutable, named by its content
  <cycle_id> -> versions/…        the newest version of that cycle
  current    -> versions/…        the newest valid time
```
A reader who resolves a link once and reads below the result sees one version, whatever happens meanwhile.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import logging
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from tasks.at_work import at_work
from tasks.map import GriddedFields, contour_levels, contour_lines, draw_map, grid_of
from tasks.revisions import OBSERVATION
from tasks.settings import Settings

if TYPE_CHECKING:
    from tasks.cycle import Cycle

logger = logging.getLogger(__name__)

CURRENT = "current"
VERSIONS = "versions"
BULLETIN_BYTES = 1000
"""A bulletin fits one HF data frame or a few text messages; it must be readable without this system."""
BULLETIN_PLACES = 12

ACKNOWLEDGEMENTS = {
    "simulated": "Simulated observations: not for operational use",
    "giro": "GIRO (Global Ionospheric Radio Observatory) and its station providers, CC BY-NC-SA 4.0",
    "swpc": "NOAA Space Weather Prediction Center, public domain",
}
"""What the owners of the data ask users to print, by a word of the source or of its licence."""

THINNED = "thinned"
"""Flag of an observation that a newer one of the same sounder stands for: not used, and not rejected."""

GRIDDED = (
    "fof2_mhz",
    "fof2_mhz_sd",
    "hmf2_km",
    "hmf2_km_sd",
    "muf3000_mhz",
    "muf3000_mhz_sd",
)


SOURCE_COLUMNS = [*OBSERVATION, "observed_at", "source", "licence"]


class ProductError(RuntimeError):
    """The products could not be published; what was published before still stands."""


def publish_products(
    settings: Settings, cycle: Cycle, observations: pd.DataFrame, measurements: pd.DataFrame | None = None
) -> Path:
    """Publishes the products of a cycle and swaps `products/current` to them.

    Files are written beside the published tree, synced, and moved in whole. `current` never goes back
    in valid time, so a backfill of last year does not take the live map away. The same cycle gives the
    same bytes, hence the same folder.

    Args:
        settings: `products_root` is where to publish.
        cycle: what `run_cycle` returned; its `analysis` must be gridded.
        observations: contract `ionograms`, each in the revision that the cycle knew; those that appear in the cycle's
            feedback are acknowledged.
        measurements: contract `measurements`, likewise; those whose echoes the cycle used are acknowledged.

    Returns:
        The published folder `products/versions/<cycle_id>-<digest>`.

    Raises:
        ProductError: the cycle has no grid, its id cannot be a folder name, or the disk refused.
    """
    with at_work("publish", cycle_id=str(cycle.metadata.get("cycle_id", ""))):
        return _publish(settings, cycle, observations, measurements)


def _publish(
    settings: Settings, cycle: Cycle, observations: pd.DataFrame, measurements: pd.DataFrame | None = None
) -> Path:
    files = render_products(cycle, observations, measurements)
    cycle_id, valid_time = str(cycle.metadata["cycle_id"]), _valid_time(cycle)
    name = f"{cycle_id}-{hashlib.sha256(files['cycle.json']).hexdigest()[:12]}"
    root = settings.products_root
    try:
        (root / VERSIONS).mkdir(parents=True, exist_ok=True)
        with _only_publisher(root):
            folder = root / VERSIONS / name
            if not folder.is_dir():
                _write_whole(files, folder)
            _point(root / cycle_id, folder)
            if _is_newest(root / CURRENT, valid_time):
                _point(root / CURRENT, folder)
    except OSError as error:
        raise ProductError(
            f"cannot publish the products of cycle {cycle_id} in {root}: {error.strerror or error}; "
            f"what {root / CURRENT} shows is unchanged"
        ) from error
    logger.info("products of cycle %s in %s (%d files)", cycle_id, folder, len(files))
    return folder


def expire_products(settings: Settings, *, now: datetime) -> list[Path]:
    """Removes the versions published longer ago than the setting `product_retention_d`; returns their folders.

    What `current` shows stays, and so does a link to a cycle whose newest version is younger.
    """
    root, last = settings.products_root, now - timedelta(days=settings.product_retention_d)
    if not (root / VERSIONS).is_dir():
        return []
    removed = []
    with _only_publisher(root):
        shown = (root / CURRENT).resolve()
        for folder in sorted((root / VERSIONS).iterdir()):
            if folder.resolve() == shown or datetime.fromtimestamp(folder.stat().st_mtime, UTC) >= last:
                continue
            for link in root.iterdir():
                if link.is_symlink() and link.resolve() == folder.resolve():
                    link.unlink()
            # Renamed first: nobody sees a folder that lacks some of its files.
            gone = root / f".staged-expired-{folder.name}"
            folder.rename(gone)
            shutil.rmtree(gone)
            removed.append(folder)
        _sync(root)
    if removed:
        logger.info("removed the products of %d cycles published before %s", len(removed), f"{last:%Y-%m-%d}")
    return removed


def render_products(
    cycle: Cycle, observations: pd.DataFrame, measurements: pd.DataFrame | None = None
) -> dict[str, bytes]:
    """Every file of a cycle's products by name; a pure function of the cycle.

    Raises:
        ProductError: the cycle has no grid, or its id cannot be a folder name.
    """
    cycle_id = str(cycle.metadata.get("cycle_id", ""))
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", cycle_id) or cycle_id in (CURRENT, VERSIONS):
        raise ProductError(
            f"cycle_id {cycle_id!r} cannot be a folder name: use letters, digits, '.', '_' and '-'"
        )
    if cycle.analysis is None or len(cycle.analysis) == 0:
        raise ProductError(
            f"cycle {cycle_id} has no gridded analysis: run it with a grid to publish products"
        )
    analysis, feedback, verification = (
        _frame(cycle.analysis),
        _frame(cycle.feedback),
        _frame(cycle.verification),
    )
    valid_time = _valid_time(cycle)
    grid = grid_of(analysis, GRIDDED)
    seen, used = observations, feedback
    if measurements is not None and len(measurements) and cycle.echoes is not None:
        echoes = _frame(cycle.echoes)
        heard = measurements[SOURCE_COLUMNS]
        seen = heard if observations.empty else pd.concat([observations[SOURCE_COLUMNS], heard])
        used = pd.concat([feedback[[*OBSERVATION]], echoes.loc[echoes["outcome"] == "used", [*OBSERVATION]]])
    sources = describe_sources(seen, used, valid_time)
    stations = describe_stations(feedback, valid_time)
    skill = summarize_skill(verification)
    is_simulated = any(source["source"] == "simulated" for source in sources)
    acknowledgements = sorted({source["acknowledgement"] for source in sources})

    image = io.BytesIO()
    draw_map(
        analysis,
        stations,
        valid_time=valid_time,
        title_note=_title_note(cycle.metadata, stations, skill),
        credit=_wrap(acknowledgements),
        is_simulated=is_simulated,
        path=image,
    )
    files = {
        "map.png": image.getvalue(),
        "stations.geojson": _json(stations_geojson(stations, feedback, valid_time)),
        "fof2_contours.geojson": _json(contours_geojson(grid, "fof2_mhz")),
        "bulletin.txt": bulletin(
            grid, stations, valid_time, cycle.metadata, acknowledgements, is_simulated
        ).encode("ascii"),
    }
    description = {
        **cycle.metadata,
        "cycle_id": cycle_id,
        "valid_time": _iso(valid_time),
        "is_simulated": is_simulated,
        "grid": {
            "south_deg": float(grid.latitude_deg[0]),
            "north_deg": float(grid.latitude_deg[-1]),
            "west_deg": _longitude(grid.longitude_deg[0]),
            "east_deg": _longitude(grid.longitude_deg[-1]),
            "is_global": grid.is_global,
            "n_latitudes": len(grid.latitude_deg),
            "n_longitudes": len(grid.longitude_deg),
        },
        "n_stations_on_map": len(stations),
        "n_stations_on_map_accepted": int(stations["is_accepted"].sum()),
        "qc_flags": {
            str(flag): int(n) for flag, n in feedback["qc_flag"].value_counts().sort_index().items()
        },
        "sources": sources,
        "acknowledgements": acknowledgements,
        "skill": skill,
        "files": [
            {"name": name, "n_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in sorted(files.items())
        ],
    }
    files["cycle.json"] = _json(description, indent=2)
    return files


def describe_sources(
    observations: pd.DataFrame, used: pd.DataFrame, valid_time: datetime
) -> list[dict[str, Any]]:
    """Each source whose observations the cycle used: licence, acknowledgement, newest observation and its age."""
    used = observations.merge(used[[*OBSERVATION]].drop_duplicates(), on=[*OBSERVATION])
    found: list[dict[str, Any]] = []
    licences = used["licence"].astype(object).where(used["licence"].notna(), "")
    for (source, licence), rows in used.groupby(
        [used["source"].astype(str), licences.astype(str)], sort=True
    ):
        words = f"{source} {licence}".lower()
        known = next((text for word, text in ACKNOWLEDGEMENTS.items() if word in words), None)
        newest = rows["observed_at"].max()
        found.append(
            {
                "source": source,
                "licence": licence or None,
                "acknowledgement": known
                or (f"{source}: {licence}" if licence else f"{source}: licence not stated"),
                "n_sounders": int(rows["sounder_id"].nunique()),
                "n_observations": len(rows),
                "newest_observed_at": _iso(newest),
                "newest_age_min": _age_min(valid_time, newest),
            }
        )
    return found


def describe_stations(feedback: pd.DataFrame, valid_time: datetime) -> pd.DataFrame:
    """The newest foF2 of each sounder: `sounder_id latitude_deg longitude_deg fof2_mhz observed_at age_min
    qc_flag is_accepted`, sorted by sounder."""
    fof2 = feedback[(feedback["quantity"] == "fof2_mhz") & (feedback["qc_flag"] != THINNED)]
    newest = (
        fof2.sort_values(["sounder_id", "observed_at", "observation_id"])
        .drop_duplicates("sounder_id", keep="last")
        .reset_index(drop=True)
    )
    return pd.DataFrame(
        {
            "sounder_id": newest["sounder_id"].astype(object),
            "latitude_deg": newest["latitude_deg"].astype(float),
            "longitude_deg": newest["longitude_deg"].astype(float),
            "fof2_mhz": newest["obs_value"].astype(float),
            "observed_at": pd.to_datetime(newest["observed_at"], utc=True),
            "age_min": [_age_min(valid_time, at) for at in newest["observed_at"]],
            "qc_flag": newest["qc_flag"].astype(object),
            "is_accepted": (newest["qc_flag"] == "accepted").astype(bool),
        }
    )


def summarize_skill(verification: pd.DataFrame) -> dict[str, dict[str, float | None]]:
    """The held-out scores of this cycle by quantity, over all stations: the row "all" of `skill_table`."""
    from tasks.verification import ALL_STATIONS, skill_table

    table = skill_table(verification)
    over_all = table[table["sounder_id"] == ALL_STATIONS].drop(columns="sounder_id").set_index("quantity")
    return {
        str(quantity): {str(name): _rounded(value) for name, value in row.items()}
        for quantity, row in over_all.iterrows()
    }


def stations_geojson(stations: pd.DataFrame, feedback: pd.DataFrame, valid_time: datetime) -> dict[str, Any]:
    """The newest observation of each sounder as RFC 7946 points, with every quantity and its innovation."""
    features = []
    judged = feedback[feedback["qc_flag"] != THINNED]
    newest = judged.sort_values(["sounder_id", "quantity", "observed_at", "observation_id"]).drop_duplicates(
        ["sounder_id", "quantity"], keep="last"
    )
    for sounder_id, rows in newest.groupby("sounder_id", sort=True):
        first = rows.iloc[0]
        quantities = {
            str(quantity): {
                "observed_at": _iso(observed_at),
                "age_min": _age_min(valid_time, observed_at),
                "obs_value": _rounded(obs_value),
                "obs_error": _rounded(obs_error),
                "background": _rounded(hofx),
                "holdout_value": _rounded(holdout_value),
                "holdout_sd": _rounded(holdout_sd),
                "qc_flag": str(qc_flag),
            }
            for quantity, observed_at, obs_value, obs_error, hofx, holdout_value, holdout_sd, qc_flag in zip(
                *(
                    rows[name]
                    for name in (
                        "quantity", "observed_at", "obs_value", "obs_error", "hofx", "holdout_value", "holdout_sd",
                        "qc_flag",
                    )
                ),
                strict=True,
            )
        }  # fmt: skip
        features.append(
            {
                "type": "Feature",
                "id": str(sounder_id),
                "geometry": {
                    "type": "Point",
                    "coordinates": [
                        _longitude(first["longitude_deg"]),
                        round(float(first["latitude_deg"]), 4),
                    ],
                },
                "properties": {"sounder_id": str(sounder_id), **quantities},
            }
        )
    return {"type": "FeatureCollection", "features": features}


def contours_geojson(grid: GriddedFields, name: str) -> dict[str, Any]:
    """Contours of a field as RFC 7946 MultiLineStrings, one feature per level, cut at the antimeridian."""
    features = []
    for level, lines in contour_lines(grid, name, contour_levels(grid.fields[name])).items():
        pieces = [piece for line in lines for piece in _cut_at_antimeridian(line) if len(piece) > 1]
        features.append(
            {
                "type": "Feature",
                "geometry": {
                    "type": "MultiLineString",
                    "coordinates": [np.round(piece, 2).tolist() for piece in pieces],
                },
                "properties": {name: level},
            }
        )
    return {"type": "FeatureCollection", "features": features}


def bulletin(
    grid: GriddedFields,
    stations: pd.DataFrame,
    valid_time: datetime,
    metadata: dict[str, Any],
    acknowledgements: list[str],
    is_simulated: bool,
) -> str:
    """The cycle in at most 1,000 bytes of ASCII: foF2, MUF(3000) and hmF2 with 1 sd at up to 12 places.

    The places are the sounders inside the grid, spread out when there are many; points of the grid when there is none.
    """
    places = _bulletin_places(grid, stations)
    latitude, longitude = places["latitude_deg"].to_numpy(float), places["longitude_deg"].to_numpy(float)
    columns = {name: grid.at(name, latitude, longitude) for name in GRIDDED}
    lines = []
    for i, place in enumerate(places["name"]):
        values = {name: float(column[i]) for name, column in columns.items()}
        lines.append(
            f"{_ascii(place)[:8]:<8} {latitude[i]:5.1f} {_longitude(longitude[i]):6.1f}"
            f" {values['fof2_mhz']:5.2f} {values['fof2_mhz_sd']:4.2f}"
            f" {values['muf3000_mhz']:5.1f} {values['muf3000_mhz_sd']:4.1f}"
            f" {values['hmf2_km']:4.0f} {values['hmf2_km_sd']:3.0f}"
        )
    head = [
        "AUTONVIS IONOSPHERE NOWCAST",
        f"VALID {valid_time:%Y-%m-%d %H:%M} UTC",
        f"CYCLE {_ascii(str(metadata['cycle_id']))[:60]}",
        *(["SIMULATED OBSERVATIONS - NOT FOR OPERATIONAL USE"] if is_simulated else []),
        f"STATIONS {int(stations['is_accepted'].sum())}" + _index_text(metadata, " IG12 {:.0f}"),
        "FOF2 AND MUF(3000) MHZ, HMF2 KM, +- IS 1 SD",
        "PLACE      LAT    LON  FOF2   +-   MUF   +- HMF2  +-",
    ]
    foot = [_ascii(text)[:110] for text in acknowledgements]
    # Acknowledgements are owed, so when space is short the last places go.
    while True:
        text = "\n".join([*head, *lines, *foot]) + "\n"
        if len(text) <= BULLETIN_BYTES:
            return text
        if lines:
            lines.pop()
        else:
            foot.pop()


def _bulletin_places(grid: GriddedFields, stations: pd.DataFrame) -> pd.DataFrame:
    inside = np.isfinite(grid.at("fof2_mhz", stations["latitude_deg"], stations["longitude_deg"]))
    places = stations[inside].rename(columns={"sounder_id": "name"})[
        ["name", "latitude_deg", "longitude_deg"]
    ]
    if places.empty:
        rows = np.linspace(0, len(grid.latitude_deg) - 1, 5).round().astype(int)[1:-1]
        columns = np.linspace(0, len(grid.longitude_deg), 5).round().astype(int)[:-1]
        latitude, longitude = np.meshgrid(grid.latitude_deg[rows], grid.longitude_deg[columns], indexing="ij")
        places = pd.DataFrame(
            {
                "name": [f"P{i + 1:02d}" for i in range(latitude.size)],
                "latitude_deg": latitude.ravel(),
                "longitude_deg": longitude.ravel(),
            }
        )
    if len(places) <= BULLETIN_PLACES:
        return places
    # Farthest-point sampling: twelve sounders in Europe would say less than twelve around the world.
    latitude, longitude = np.radians(places["latitude_deg"]), np.radians(places["longitude_deg"])
    points = np.column_stack(
        [np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude)]
    )
    chosen = [0]
    nearest = np.full(len(points), np.inf)
    while len(chosen) < BULLETIN_PLACES:
        nearest = np.minimum(nearest, ((points - points[chosen[-1]]) ** 2).sum(axis=1))
        chosen.append(int(np.argmax(nearest)))
    return places.iloc[sorted(chosen)]


def _cut_at_antimeridian(
    line: np.ndarray[Any, np.dtype[np.float64]],
) -> list[np.ndarray[Any, np.dtype[np.float64]]]:
    """Pieces with longitudes in -180..180 of a line whose longitudes run continuously up to 540."""
    beyond = line[:, 0] > 180.0
    cuts = np.flatnonzero(beyond[1:] != beyond[:-1]) + 1
    pieces = np.split(line, cuts)
    for number, cut in enumerate(cuts):
        (x0, y0), (x1, y1) = line[cut - 1], line[cut]
        crossing = np.array([[180.0, y0 + (180.0 - x0) / (x1 - x0) * (y1 - y0)]])
        pieces[number] = np.vstack([pieces[number], crossing])
        pieces[number + 1] = np.vstack([crossing, pieces[number + 1]])
    return [
        np.column_stack([piece[:, 0] - 360.0 * (piece[:, 0].max() > 180.0), piece[:, 1]]) for piece in pieces
    ]


def _title_note(metadata: dict[str, Any], stations: pd.DataFrame, skill: dict[str, dict[str, Any]]) -> str:
    n_accepted = int(stations["is_accepted"].sum())
    parts = [f"cycle {metadata['cycle_id']}"]
    if len(stations) == 0:
        parts.append("no observations: climatology only")
    else:
        parts.append(f"{n_accepted} of {len(stations)} stations accepted")
    parts.append(_index_text(metadata, "effective index IG12 {:.0f}"))
    fof2 = skill.get("fof2_mhz", {})
    if fof2.get("n") and fof2["rmse_holdout"] is not None:
        text = f"error at held-out stations {fof2['rmse_holdout']:.2f} MHz"
        parts.append(
            text + (f" (IRI {fof2['rmse_iri_index']:.2f})" if fof2["rmse_iri_index"] is not None else "")
        )
    return " · ".join(part for part in parts if part)


def _index_text(metadata: dict[str, Any], template: str) -> str:
    index = metadata.get("effective_index")
    return "" if index is None else template.format(float(index))


def _wrap(acknowledgements: list[str]) -> str:
    lines = [f"Observations: {'; '.join(acknowledgements)}."] if acknowledgements else []
    return "\n".join([*lines, "Background: IRI coefficients by PyIRI. Coastlines: GSHHG."])


def _valid_time(cycle: Cycle) -> datetime:
    times = _frame(cycle.analysis)["valid_time"]
    return pd.Timestamp(times.iloc[0]).tz_convert("UTC").to_pydatetime()


def _frame(table: Any) -> pd.DataFrame:
    return table if isinstance(table, pd.DataFrame) else table.to_pandas()


def _age_min(valid_time: datetime, observed_at: Any) -> float:
    return round((pd.Timestamp(valid_time) - pd.Timestamp(observed_at)).total_seconds() / 60.0, 1)


def _iso(time: Any) -> str:
    return str(pd.Timestamp(time).tz_convert("UTC").strftime("%Y-%m-%dT%H:%M:%SZ"))


def _longitude(value: Any) -> float:
    return round((float(value) + 180.0) % 360.0 - 180.0, 4)


def _rounded(value: Any) -> float | None:
    return round(float(value), 4) if value is not None and math.isfinite(float(value)) else None


def _ascii(text: str) -> str:
    return re.sub(r"[^\x20-\x7e]", "?", text)


def _json(content: Any, indent: int | None = None) -> bytes:
    def plain(value: Any) -> Any:
        if isinstance(value, datetime):
            return _iso(value)
        if isinstance(value, np.generic):
            return value.item()
        raise TypeError(f"{type(value).__name__} {value!r} has no JSON form")

    separators = (",", ":") if indent is None else None
    text = json.dumps(
        content,
        indent=indent,
        separators=separators,
        sort_keys=indent is not None,
        allow_nan=False,
        default=plain,
    )
    return text.encode() + b"\n"


@contextmanager
def _only_publisher(root: Path) -> Iterator[None]:
    """One publisher at a time, so that two cannot each think theirs is the newest."""
    with (root / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for leftover in root.glob(".staged-*"):  # of a publisher that was killed: we hold the lock
            shutil.rmtree(leftover, ignore_errors=True)
        yield


def _write_whole(files: dict[str, bytes], folder: Path) -> None:
    """Writes and syncs the files beside `folder`, then moves them to it in one rename."""
    staged = Path(tempfile.mkdtemp(prefix=".staged-", dir=folder.parent.parent))
    try:
        for name, content in files.items():
            with (staged / name).open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        staged.chmod(0o755)
        _sync(staged)
        staged.rename(folder)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    _sync(folder.parent)


def _point(link: Path, folder: Path) -> None:
    """Makes `link` a relative symbolic link to `folder`, replacing an older one atomically."""
    target = folder.relative_to(link.parent)
    if link.is_symlink() and Path(os.readlink(link)) == target:
        return
    fresh = link.parent / f".{link.name}.fresh"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target, target_is_directory=True)
    fresh.replace(link)
    _sync(link.parent)


def _is_newest(current: Path, valid_time: datetime) -> bool:
    try:
        shown = json.loads((current / "cycle.json").read_bytes())["valid_time"]
        return bool(datetime.fromisoformat(shown) <= valid_time)
    except (FileNotFoundError, KeyError, ValueError):
        return True  # nothing readable is shown: anything whole is better


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
