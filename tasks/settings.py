"""Every setting of the system: one class, read from `AUTONVIS_*` environment variables."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "AUTONVIS_"
LONGEST_LEAD_H = 72.0  # contracts of the datasets `analysis` and `verification`
TIERS = ("PLATINUM", "GOLD", "SILVER", "BRONZE")
"""What a sounder may declare of itself when it registers."""
UNDECLARED = "undeclared"
LABEL = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
LEAST_PASSWORD = 12
SECRETS = ("backup_passphrase", "prefect_auth")
"""Settings whose values no message shows."""


class SettingsError(ValueError):
    """A setting is unknown, missing or malformed; the message names it."""


class Settings(BaseSettings):
    """Settings of one AutoNVIS system; two systems with two `home`s and ports never meet."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    home: Path = Field(Path("var"), description="Root of everything the system writes.")
    lake: Path | None = Field(None, description="Root of the Parquet lake; default HOME/lake.")
    database_url: str | None = Field(
        None, description="SQLAlchemy URL of the catalog; default SQLite in HOME."
    )

    cluster: str = Field("autonvis", pattern=LABEL, description="Label `cluster` of every metric.")
    environment: str = Field(
        "local",
        pattern=LABEL,
        description="Label `environment` of every metric, such as production or staging.",
    )

    log_format: Literal["text", "json"] = Field(
        "text", description="Of logs: text, or json with a line per record that names cycle and batch."
    )
    alert_urls: SecretStr = Field(
        SecretStr(""),
        description="Where automations tell of faults, separated by spaces: https://… gets JSON by POST, others are Apprise's, such as mailtos://user:password@host?to=operator@example.org.",
    )
    heartbeat_url: SecretStr | None = Field(
        None,
        description="Asked (GET) after each nowcast that succeeded, for a dead-man's switch outside this host; default none.",
    )

    mqtt_url: str | None = Field(
        None,
        description="mqtt://user:password@host:port of the broker; default: one that `autonvis up` starts.",
    )
    mqtt_client_id: str = Field(
        "autonvis-land", description="Client id of the landing consumer's persistent session."
    )
    mqtt_version: Literal["3.1.1", "5"] = Field(
        "3.1.1", description="MQTT version of the landing consumer; 5 where the broker speaks it."
    )
    mqtt_share: str = Field(
        "",
        pattern=r"^[A-Za-z0-9_-]*$",
        description="Group of consumers that share the queue (`$share/GROUP/…`), each with its own client id; empty for one.",
    )
    mqtt_drain_messages: int = Field(
        60_000,
        ge=1,
        description="Messages at most per drain of the queue: what 1,000 a second bring from one run of land to the next.",
    )
    mqtt_drain_s: float = Field(60.0, gt=0, description="Seconds at most per drain of the queue.")

    tls_cert: Path | None = Field(
        None,
        description="Certificate chain (PEM): MQTT for stations and JSON lines over TCP then speak TLS only; default none, plain text.",
    )
    tls_key: Path | None = Field(
        None, validate_default=True, description="Private key (PEM) of AUTONVIS_TLS_CERT."
    )
    mqtt_tls_host: str = Field(
        "127.0.0.1",
        description="Address on which the broker of `autonvis up` takes stations by TLS; 0.0.0.0 for all.",
    )
    mqtt_tls_port: int = Field(8883, ge=1, le=65_535, description="Port of that.")

    gateway_host: str = Field("127.0.0.1", description="Address the HTTP and TCP landing zones listen on.")
    gateway_port: int = Field(
        8002, ge=0, le=65_535, description="Port of the HTTP landing zone; 0 takes a free one."
    )

    tcp_port: int = Field(
        8001, ge=0, le=65_535, description="Port of the TCP landing zone (JSON lines); 0 takes a free one."
    )

    max_connections: int = Field(
        10_000, ge=1, description="Connections at most of HTTP, and of TCP, at one time."
    )
    accept_unregistered: bool = Field(
        True,
        description="Take observations of sounders that never registered; registered ones need their key.",
    )
    sounder_items_per_s: float = Field(
        1000.0,
        ge=0,
        description="Items per second and sounder over 5 minutes by HTTP and TCP, of those that declare no tier; 0 for no limit.",
    )
    platinum_items_per_s: float = Field(4000.0, ge=0, description="As above, of sounders of tier PLATINUM.")
    gold_items_per_s: float = Field(2000.0, ge=0, description="As above, of sounders of tier GOLD.")
    silver_items_per_s: float = Field(1000.0, ge=0, description="As above, of sounders of tier SILVER.")
    bronze_items_per_s: float = Field(500.0, ge=0, description="As above, of sounders of tier BRONZE.")
    registrations_per_min: float = Field(
        60.0, ge=0, description="Registrations per minute from one address; 0 for no limit."
    )
    min_free_disk_mb: int = Field(
        256, ge=0, description="Free space in MB below which HTTP and TCP refuse, so that curation can go on."
    )

    web_host: str = Field("127.0.0.1", description="Address the web service listens on.")
    web_port: int = Field(8080, ge=0, le=65_535, description="Port of the web service; 0 takes a free one.")
    web_origins: str = Field(
        "",
        description="Other sites whose pages may read the web service (GET), comma separated, e.g. https://example.org; empty for none.",
    )
    public_url: str | None = Field(
        None,
        pattern=r"^https?://[^\s/?#]+[^\s?#]*$",
        description="Address under which people reach the web service, for links to it; default the one that `autonvis up` starts.",
    )

    prefect_port: int = Field(
        4200, ge=0, le=65_535, description="Port of the Prefect server; 0 takes a free one."
    )

    prefect_auth: SecretStr | None = Field(
        None,
        description="user:password that Prefect's server then asks of everyone, pages and API; default none, for a port that nobody else reaches.",
    )

    endpoints: str = Field(
        "",
        pattern=r"^([a-z-]+=https?://\S+( |$))*$",
        description="Where others than `autonvis up` start the services: what the flight check asks, name=URL separated by spaces, such as gateway=http://gateway:8002/health.",
    )

    cycle_minutes: int = Field(15, ge=1, le=60, description="Minutes between cycles.")
    catch_up_h: float = Field(
        24.0,
        ge=0,
        le=720,
        description="Hours back in which missed cycles are run once their observations have landed; 0 for none.",
    )
    grid_step_deg: float = Field(1.0, gt=0, le=10, description="Grid spacing of the analysis in degrees.")
    leads_h: str = Field(
        "1,3,6,12,24",
        description="Hours ahead that a nowcast forecasts, comma separated, empty for none; each cycle scores one of them in turn.",
    )
    forecast_step_deg: float = Field(
        2.0,
        gt=0,
        le=10,
        description="Grid spacing of the forecasts in degrees, unless the analysis' is coarser.",
    )
    region: str = Field("global", description="`global`, or `south,west,north,east` in degrees.")
    kernel_config: Path | None = Field(
        None, description="Kernel configuration TOML; default: the one shipped."
    )
    threads: int = Field(0, ge=0, description="Threads of the kernel; 0 takes all cores.")

    max_future_s: float = Field(
        300.0, ge=0, description="Seconds an observation may lie in the future (clock offset)."
    )
    max_age_d: float = Field(
        36_500.0, gt=0, description="Days after which an observation is refused as stale."
    )

    landing_retention_d: float | None = Field(
        None, gt=0, description="Days that landed raw bytes are kept after their curation; default for ever."
    )

    backup_to: str | None = Field(
        None,
        description="Folder or fsspec URL (s3://bucket/prefix) of the backups; default HOME-backups beside HOME: another disk is safer.",
    )
    backup_passphrase: SecretStr | None = Field(
        None,
        min_length=8,
        description="Passphrase of what is secret in a backup; without one configuration and secrets are left out.",
    )
    backup_passphrase_file: Path | None = Field(None, description="File that holds the passphrase instead.")
    backup_daily: int = Field(30, ge=1, description="Days of which the newest full backup is kept.")
    backup_weekly: int = Field(12, ge=0, description="Weeks of which the newest full backup is kept.")
    backup_increments_d: float = Field(2.0, gt=0, description="Days that increments are kept.")
    backup_log_d: float = Field(7.0, ge=0, description="Days of logs in a full backup.")

    cycle_record_d: float = Field(
        92.0,
        ge=31,
        description="Days that the catalog keeps the records of cycles, which the objectives count; the newest stay.",
    )
    product_retention_d: float = Field(
        30.0, gt=0, description="Days that the products of a cycle are kept; the newest stay."
    )
    run_retention_d: float = Field(
        30.0, gt=0.05, description="Days that Prefect keeps flow runs with their tasks, logs and artifacts."
    )
    event_retention_d: float = Field(7.0, gt=0.05, description="Days that Prefect keeps events.")
    log_mb: float = Field(10.0, gt=0, description="Size in MB above which a log is rotated by `maintain`.")
    log_retention_d: float = Field(30.0, gt=0, description="Days that rotated logs are kept.")

    sources: str = Field(
        "", description="Pull sources of the live system, comma separated: giro, swpc, drop."
    )
    giro_url: str = Field("https://lgdc.uml.edu/fastchar/getbest", description="GIRO FastChar service.")
    giro_stations: str = Field("", description="URSI codes to pull from GIRO, comma separated.")
    swpc_url: str = Field("https://services.swpc.noaa.gov", description="Root of NOAA SWPC's services.")
    drop: str = Field(
        "",
        description="Folder, or URL of a directory listing, from which source drop takes CSV and Parquet files.",
    )
    drop_final_suffix: str = Field(
        "",
        description="Ending that a writer gives a whole file by a rename, e.g. `.final.csv`: taken at once; others when unchanged.",
    )
    http_timeout_s: float = Field(20.0, gt=0, description="Timeout of one pull request in seconds.")
    http_pace_s: float = Field(2.0, ge=0, description="Seconds between two requests to one host.")

    @field_validator("prefect_auth")
    @classmethod
    def _names_user_and_password(cls, auth: SecretStr | None) -> SecretStr | None:
        if auth is not None:
            user, _, password = auth.get_secret_value().partition(":")
            if not user or len(password) < LEAST_PASSWORD or not auth.get_secret_value().isascii():
                raise ValueError(
                    f"it must be user:password in ASCII, with a password of {LEAST_PASSWORD} characters or more"
                )
        return auth

    @field_validator("tls_key")
    @classmethod
    def _tls_is_whole(cls, key: Path | None, others: ValidationInfo) -> Path | None:
        if (key is None) != (others.data.get("tls_cert") is None):
            raise ValueError("AUTONVIS_TLS_CERT and AUTONVIS_TLS_KEY belong together: set both or neither")
        return key

    @field_validator("leads_h")
    @classmethod
    def _leads_are_hours(cls, text: str) -> str:
        parse_leads(text)
        return text

    @property
    def items_per_s_by_tier(self) -> dict[str, float]:
        """The rate limit of each tier, and of sounders that declare none."""
        return {
            UNDECLARED: self.sounder_items_per_s,
            "PLATINUM": self.platinum_items_per_s,
            "GOLD": self.gold_items_per_s,
            "SILVER": self.silver_items_per_s,
            "BRONZE": self.bronze_items_per_s,
        }

    @property
    def prefect_login(self) -> tuple[str, str] | None:
        """User and password that Prefect's server asks for, if it does."""
        if self.prefect_auth is None:
            return None
        user, _, password = self.prefect_auth.get_secret_value().partition(":")
        return user, password

    @property
    def endpoint_urls(self) -> dict[str, str]:
        """URL by name of what others than `autonvis up` start."""
        return dict(pair.split("=", 1) for pair in self.endpoints.split())  # type: ignore[misc]

    @property
    def source_names(self) -> list[str]:
        """The pull sources that are switched on."""
        return [name.strip() for name in self.sources.split(",") if name.strip()]

    @property
    def web_origin_names(self) -> list[str]:
        """The sites that may read the web service."""
        return [name.strip() for name in self.web_origins.split(",") if name.strip()]

    @property
    def lake_root(self) -> Path:
        return self.lake if self.lake is not None else self.home / "lake"

    @property
    def backup_address(self) -> str:
        home = self.home.resolve()
        return self.backup_to or str(home.with_name(f"{home.name}-backups"))

    @property
    def catalog_url(self) -> str:
        return self.database_url or f"sqlite:///{self.home.resolve() / 'catalog.db'}"

    @property
    def spool_root(self) -> Path:
        return self.home / "spool"

    @property
    def products_root(self) -> Path:
        return self.home / "products"

    @property
    def metrics_root(self) -> Path:
        return self.home / "run" / "metrics"

    @property
    def log_root(self) -> Path:
        return self.home / "logs"


def parse_leads(text: str) -> tuple[float, ...]:
    """Leads in hours from text such as `1,3,6`: ascending, each once.

    Raises:
        ValueError: a part is no number between 0 and LONGEST_LEAD_H.
    """
    try:
        values = tuple(sorted({float(part) for part in text.split(",") if part.strip()}))
    except ValueError as error:
        raise ValueError(f"{text!r} is not hours separated by commas, such as 1,3,6") from error
    if not all(0 <= value <= LONGEST_LEAD_H for value in values):
        raise ValueError(f"{text!r}: leads lie between 0 and {LONGEST_LEAD_H:g} hours")
    return values


@lru_cache(maxsize=1)
def load_settings() -> Settings:
    """The settings of this process, read once.

    Raises:
        SettingsError: an `AUTONVIS_*` variable is unknown or its value is not accepted.
    """
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    unknown = sorted(name for name in os.environ if name.startswith(PREFIX) and name not in known)
    if unknown:
        raise SettingsError(f"unknown setting {', '.join(unknown)}; known are {', '.join(sorted(known))}")
    try:
        return Settings()  # type: ignore[call-arg]
    except ValidationError as error:
        problems = "; ".join(
            f"{PREFIX}{'_'.join(str(part) for part in item['loc']).upper()}: {item['msg']}"
            + ("" if item["loc"][0] in SECRETS else f" (got {item['input']!r})")
            for item in error.errors()
        )
        raise SettingsError(problems) from error


def environment_template() -> str:
    """Every setting with its meaning and default, as lines of an environment file: `deployments/autonvis.env.example`."""
    head = "# Every setting with its default, which a line without # overrides. `autonvis settings` shows what is in force.\n"
    settings = (
        f"# {field.description}\n#{PREFIX}{name.upper()}={'' if field.default is None else field.default}\n"
        for name, field in Settings.model_fields.items()
    )
    return "\n".join((head, *settings))


if __name__ == "__main__":
    print(environment_template(), end="")
