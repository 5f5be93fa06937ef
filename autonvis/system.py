"""The live system on one host: start every process, wait until it answers, stop exactly what was started."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from autonvis.environment import STATE_FILE, prefect_environment
from services.broker import StationTls, start_broker, stop_broker
from services.processes import free_port, is_free, stop_process
from tasks.landing.mqtt import create_session
from tasks.process_identity import is_running, started_s
from tasks.settings import Settings

WORK_POOL = "autonvis"
SHARED = ("AUTONVIS_MQTT_URL", "AUTONVIS_PUBLIC_URL", "PREFECT_API_URL", "PREFECT_API_AUTH_STRING")
"""What a command that joins the live system takes from it."""
START_TIMEOUT_S = 120.0
COMMAND_TIMEOUT_S = 600.0
FLUSH_TIMEOUT_S = 10.0
PROJECT_ROOT = Path(__file__).resolve().parents[1]

_children: list[subprocess.Popen[bytes]] = []
"""What this process has started: Python complains of a handle that is dropped while its process runs on."""


class StartError(RuntimeError):
    """The live system could not be started or stopped; the message says which part and what to do."""


@dataclass(frozen=True)
class Process:
    """One process that we started; its start time tells it from a later process with the same id."""

    name: str
    pid: int
    start_s: float

    @property
    def is_running(self) -> bool:
        return is_running(self.pid, self.start_s)

    def stop(self) -> None:
        stop_process(self.pid, self.start_s)


def choose_port(preferred: int, setting: str) -> int:
    """`preferred` if nobody listens on it, else an error naming it and its setting; 0 gives any free port."""
    if not preferred:
        return free_port()
    if not is_free(preferred):
        raise StartError(f"port {preferred} is taken; set {setting} to another, or to 0 for any free one")
    return preferred


def spawn(name: str, command: list[str], environment: dict[str, str], log_root: Path) -> Process:
    """Start a process of its own session, its output appended to `<log_root>/<name>.log`."""
    log_root.mkdir(parents=True, exist_ok=True)
    with (log_root / f"{name}.log").open("ab") as log:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            cwd=PROJECT_ROOT,
            start_new_session=True,
        )
    _children.append(child)
    return Process(name, child.pid, started_s(child.pid))


def wait_for(url: str, process: Process, log_root: Path) -> None:
    """Wait until `url` answers 200.

    Raises:
        StartError: the process died or did not answer in time; the message ends with its last log lines.
    """
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if not process.is_running:
            break
        try:
            if httpx.get(url, timeout=2).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.3)
    log = log_root / f"{process.name}.log"
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
    raise StartError(f"{process.name} did not come up at {url}; see {log}:\n{tail}")


def station_tls(settings: Settings) -> StationTls | None:
    """Where the private broker takes stations by TLS; None without a certificate."""
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    return StationTls(settings.mqtt_tls_host, settings.mqtt_tls_port, settings.tls_cert, settings.tls_key)


def start_gateway(settings: Settings, port: int, tcp_port: int) -> tuple[Process, str]:
    """Start the HTTP and TCP landing zones and wait until they can write; returns the process and HTTP's address."""
    process = spawn(
        "gateway",
        [sys.executable, "-m", "services.gateway"],
        {
            **prefect_environment(settings),
            "AUTONVIS_GATEWAY_PORT": str(port),
            "AUTONVIS_TCP_PORT": str(tcp_port),
        },
        settings.log_root,
    )
    url = f"http://{settings.gateway_host}:{port}"
    try:
        wait_for(f"{url}/health", process, settings.log_root)
    except StartError:
        process.stop()
        raise
    return process, url


def start_web(settings: Settings, environment: dict[str, str], port: int) -> tuple[Process, str]:
    """Start the web service and wait until it answers; returns the process and its address."""
    process = spawn(
        "web",
        [sys.executable, "-m", "services.web"],
        {**environment, "AUTONVIS_WEB_PORT": str(port)},
        settings.log_root,
    )
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.web_host, settings.web_host)
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    try:
        wait_for(f"{url}/openapi.json", process, settings.log_root)
    except BaseException:
        process.stop()
        raise
    return process, url


def start_prefect_server(settings: Settings, port: int) -> tuple[Process, str]:
    """Start a Prefect server and wait until it answers; returns the process and its address."""
    server = spawn(
        "prefect-server",
        [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)],
        prefect_environment(settings),
        settings.log_root,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(f"{url}/api/health", server, settings.log_root)
    except BaseException:
        server.stop()
        raise
    return server, url


@contextmanager
def prefect_server(settings: Settings) -> Iterator[None]:
    """A Prefect server for the flow runs of one command: the live system's if that is up, else one of its own.

    It runs in a session of its own: Ctrl-C reaches the run, which ends in order, and not the server below it.
    Must be entered before Prefect is imported.
    """
    if "PREFECT_API_URL" in os.environ:
        yield
        return
    server, url = start_prefect_server(settings, free_port())
    os.environ["PREFECT_API_URL"] = f"{url}/api"
    try:
        yield
    finally:
        flush_prefect()
        server.stop()
        del os.environ["PREFECT_API_URL"]


def flush_prefect() -> None:
    """Send the logs and events that Prefect has queued, while its server still runs."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    APILogWorker.drain_all(timeout=FLUSH_TIMEOUT_S)
    EventsWorker.drain_all(timeout=FLUSH_TIMEOUT_S)


def run_prefect(arguments: list[str], environment: dict[str, str]) -> None:
    """Run a `prefect` command to its end; its output is shown only when it fails."""
    run_python(["-m", "prefect", *arguments], environment)


def run_python(arguments: list[str], environment: dict[str, str]) -> None:
    """Run a Python command to its end; its output is shown only when it fails.

    Raises:
        StartError: it failed, or was not done within COMMAND_TIMEOUT_S.
    """
    try:
        done = subprocess.run(
            [sys.executable, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env={**os.environ, **environment},
            cwd=PROJECT_ROOT,
            timeout=COMMAND_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired as error:
        said = b"".join(part for part in (error.stdout, error.stderr) if part).decode(errors="replace")
        raise StartError(
            f"{' '.join(arguments[1:])} took more than {COMMAND_TIMEOUT_S:.0f} s, and was ended; the machine may be too busy: "
            f"run it again\n{said}"
        ) from error
    if done.returncode:
        raise StartError(f"{' '.join(arguments[1:])} failed:\n{done.stdout}{done.stderr}")


def deploy(environment: dict[str, str], *which: str) -> None:
    """Create the work pool and apply the deployments of prefect.yaml, all or those that `which` selects.

    Raises:
        StartError: Prefect refuses.
    """
    run_prefect(["work-pool", "create", WORK_POOL, "--type", "process", "--overwrite"], environment)
    run_prefect(["--no-prompt", "deploy", *(which or ("--all",))], environment)


def start_worker(settings: Settings, environment: dict[str, str], *options: str) -> Process:
    """Start the worker that runs what the server at `PREFECT_API_URL` of `environment` schedules."""
    command = [sys.executable, "-m", "autonvis.worker", *options]
    return spawn("prefect-worker", command, environment, settings.log_root)


def up(settings: Settings, say: Callable[[str], None] = print) -> dict[str, str]:
    """Start broker, gateway, web service, Prefect server, deployments and worker; returns the addresses.

    Raises:
        StartError: it is up already, or a part did not start (the parts started so far are stopped again).
    """
    if status(settings):
        raise StartError(f"the system of {settings.home} is up already; `make down` stops it")
    try:
        return start_missing(settings, say)
    except BaseException:
        down(settings, say=lambda _: None)
        raise


def start_missing(settings: Settings, say: Callable[[str], None] = print) -> dict[str, str]:
    """Start what does not run of broker, gateway, web service, Prefect server and worker, and apply deployments and automations.

    What runs is left alone. Returns the addresses.

    Raises:
        StartError: a part did not start.
    """
    state_file = settings.home / STATE_FILE
    state_file.parent.mkdir(parents=True, exist_ok=True)
    running = {process.name: process for process in status(settings)}
    known: dict[str, str] = json.loads(state_file.read_text()).get("addresses", {}) if running else {}
    """Where each process said that it is well, before."""
    environment = prefect_environment(settings)
    addresses: dict[str, str] = {}

    def remember() -> None:
        temporary = state_file.with_suffix(".tmp")
        shared = {key: environment[key] for key in SHARED if key in environment}
        state = {
            "processes": [asdict(one) for one in running.values()],
            "environment": shared,
            "addresses": addresses,
        }
        temporary.touch(mode=0o600)
        temporary.write_text(json.dumps(state))
        temporary.chmod(0o600)  # passwords of the broker and of Prefect
        temporary.replace(state_file)

    def port_of(name: str, preferred: int, setting: str) -> int:
        """The port that the part had, of those that others know by it."""
        if preferred == 0 and name in known:
            preferred = urlsplit(known[name]).port or 0
            return preferred if is_free(preferred) else free_port()
        return choose_port(preferred, setting)

    gateway_url = known.get("gateway", "").removesuffix("/health")
    tcp_port = 0
    if "gateway" not in running:
        tcp_port = choose_port(settings.tcp_port, "AUTONVIS_TCP_PORT")
        http_port = port_of("gateway", settings.gateway_port, "AUTONVIS_GATEWAY_PORT")
        gateway_url = f"http://{settings.gateway_host}:{http_port}"
    if settings.mqtt_url:
        environment["AUTONVIS_MQTT_URL"] = settings.mqtt_url
        say("broker   the one of AUTONVIS_MQTT_URL")
    else:
        broker = start_broker(settings.home, gateway=gateway_url, tls=station_tls(settings))
        environment["AUTONVIS_MQTT_URL"] = broker.consumer_url
        say(f"broker   {broker.kind} for stations on {broker.stations_url}; it {broker.durability}")
    remember()
    create_session(
        environment["AUTONVIS_MQTT_URL"],
        settings.mqtt_client_id,
        version=settings.mqtt_version,
        share=settings.mqtt_share,
    )

    if "gateway" in running:
        say(f"gateway  {gateway_url} runs")
    else:
        running["gateway"], gateway_url = start_gateway(settings, http_port, tcp_port)
        lines = f"{'tls' if settings.tls_cert else 'tcp'}://{settings.gateway_host}:{tcp_port}"
        say(f"gateway  {gateway_url} and JSON lines on {lines}")
    addresses["gateway"] = f"{gateway_url}/health"
    remember()

    if "web" in running:
        web_url = known["web"].removesuffix("/health")
        say(f"web      {web_url} runs")
    else:
        web_port = port_of("web", settings.web_port, "AUTONVIS_WEB_PORT")
        running["web"], web_url = start_web(settings, environment, web_port)
        say(f"web      {web_url}")
    addresses["web"] = f"{web_url}/health"
    environment["AUTONVIS_PUBLIC_URL"] = settings.public_url or web_url
    remember()

    if "prefect-server" in running:
        prefect_url = known["prefect-server"].removesuffix("/api/health")
        say(f"prefect  {prefect_url} runs")
    else:
        port = port_of("prefect-server", settings.prefect_port, "AUTONVIS_PREFECT_PORT")
        running["prefect-server"], prefect_url = start_prefect_server(settings, port)
        if "prefect-worker" in running and f"{prefect_url}/api/health" != known.get("prefect-server"):
            running.pop("prefect-worker").stop()  # it asks where nobody is
        say(f"prefect  {prefect_url}")
    addresses["prefect-server"] = f"{prefect_url}/api/health"
    environment["PREFECT_API_URL"] = f"{prefect_url}/api"
    remember()

    deploy(environment)
    run_python(["-m", "autonvis", "automations"], environment)
    if "prefect-worker" in running:
        say("worker   runs")
    else:
        running["prefect-worker"] = start_worker(settings, environment)
        say("worker   started; land runs every minute, nowcast every 15")
    remember()
    return {
        "gateway": gateway_url,
        "web": web_url,
        "prefect": prefect_url,
        "mqtt": environment["AUTONVIS_MQTT_URL"],
    }


def status(settings: Settings) -> list[Process]:
    """The processes of the live system that run now."""
    state_file = settings.home / STATE_FILE
    if not state_file.is_file():
        return []
    processes = [Process(**one) for one in json.loads(state_file.read_text())["processes"]]
    return [process for process in processes if process.is_running]


def down(settings: Settings, say: Callable[[str], None] = print) -> None:
    """Stop what `up` started, the worker first so that no run starts while the rest goes down."""
    running = status(settings)
    order = ["gateway", "web", "prefect-server", "prefect-worker"]
    for process in sorted(running, key=lambda process: order.index(process.name), reverse=True):
        process.stop()
        say(f"stopped  {process.name}")
    if stop_broker(settings.home):
        say("stopped  broker")
    elif not running:
        say(f"nothing of {settings.home} is running")
    (settings.home / STATE_FILE).unlink(missing_ok=True)
