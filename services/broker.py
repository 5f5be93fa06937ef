"""A private MQTT broker under the system's home, for systems that are given none by `AUTONVIS_MQTT_URL`.

In order of preference: RabbitMQ with its MQTT plugin (keeps what it acknowledged through kill -9 and power cuts),
Mosquitto (may lose the last second at kill -9), NATS (a power cut may take two minutes), an embedded one (memory
only). Each runs on ports of its own with our configuration and fresh credentials, beside any broker of the machine,
and keeps its state under `HOME/broker/<kind>`. `HOME/run/broker.json` says which process it is, so that another
command can stop it.

Nobody is admitted without a password. The system has two users: the consumer, which may read and no more, and the
operator, which may do everything. Stations come in by the credential of `/register` (`services/broker_auth.py`,
`services/mosquitto_users.py`).
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

import psutil

from services.processes import free_port, is_free, kill_all, stop_process
from tasks.landing.mqtt import BATCH_MESSAGES, MESSAGE_BYTES, BrokerUnavailable, ping
from tasks.mosquitto_hash import mosquitto_hash
from tasks.process_identity import is_running, started_s

log = logging.getLogger(__name__)

Kind = Literal["rabbitmq", "mosquitto", "nats", "embedded"]
KINDS: tuple[Kind, ...] = get_args(Kind)

WITH_TLS: tuple[Kind, ...] = ("rabbitmq", "mosquitto")

DURABILITY: dict[Kind, str] = {
    "rabbitmq": "is durable: it keeps every acknowledged message through kill -9 and power cuts",
    "mosquitto": "is nearly durable: it saves its queue after each change, once a second: kill -9 may lose the last second",
    "nats": "is nearly durable: it keeps its queue through kill -9, but syncs it every two minutes: a power cut loses those",
    "embedded": "is not durable: it keeps messages in memory only, and they are lost when it stops",
}

PORT_WAIT_S = 5.0
END_WAIT_S = 10.0
"""A broker that was killed is gone, with its ports, within this time."""
RELOAD_TIMEOUT_S = 60.0
HEADER_BYTES = 64 * 2**10
INFRA = Path(__file__).resolve().parents[1] / "infra"
"""Configuration of each kind, with `$names` for what differs from system to system."""

_children: dict[int, subprocess.Popen[bytes]] = {}
"""What this process has started and must reap, by the id of the broker."""


class BrokerError(RuntimeError):
    """The private broker could not be started; the message says why and where its log is."""


class NotInstalled(BrokerError):  # noqa: N818 - a state of the machine
    """The machine does not have this kind of broker."""


@dataclass(frozen=True)
class StationTls:
    """Where stations come in by TLS, and with which certificate (chain) and key."""

    host: str
    port: int
    certificate: Path
    key: Path

    def __post_init__(self) -> None:
        for path in (self.certificate, self.key):
            if not os.access(path, os.R_OK):
                raise BrokerError(f"{path}, of AUTONVIS_TLS_CERT and AUTONVIS_TLS_KEY, cannot be read")


@dataclass(frozen=True)
class Broker:
    """A running private broker.

    `url` holds the operator's credentials, `consumer_url` those of the drain; `stations` is the host:port for stations
    and `gateway` the URL of the gateway that is asked about them, if any.
    """

    url: str
    kind: Kind
    pid: int
    start_s: float
    home: Path
    consumer_url: str
    stations: str
    gateway: str | None
    metrics_url: str | None = None
    """Where it says how much waits in its queues; None for those that do not say."""
    is_tls: bool = False
    """Whether stations come in by TLS."""

    @property
    def stations_url(self) -> str:
        """What stations are told."""
        return f"mqtt{'s' if self.is_tls else ''}://{self.stations}"

    @property
    def is_durable(self) -> bool:
        """Whether an acknowledgement of this broker survives the death of the broker."""
        return self.kind == "rabbitmq"

    @property
    def durability(self) -> str:
        """What this broker loses when it dies, in a sentence."""
        return DURABILITY[self.kind]

    @property
    def address(self) -> str:
        """host:port."""
        parts = urlsplit(self.url)
        return f"{parts.hostname}:{parts.port}"

    def stop(self) -> None:
        """Stops this broker and nothing else; harmless when it has ended already."""
        stop_process(self.pid, self.start_s, grace_s=30.0)
        child = _children.pop(self.pid, None)
        if child is not None:
            child.wait(10.0)
        if running_broker(self.home) is None:
            _state_path(self.home).unlink(missing_ok=True)


def start_broker(
    home: Path,
    *,
    port: int = 0,
    kind: Kind | None = None,
    gateway: str | None = None,
    tls: StationTls | None = None,
    timeout_s: float = 90.0,
) -> Broker:
    """Starts the best broker installed and returns when it accepts clients.

    One that runs already, and answers, is returned; one that asks another gateway is started again.

    Args:
        home: root of the system; state and log go to `home/broker`.
        port: TCP port on the loopback address; 0 takes the one used last, or a free one.
        kind: only this kind, instead of the best installed.
        gateway: URL of the gateway that knows the stations; without it RabbitMQ and the embedded broker admit none.
        tls: a listener of its own for stations; without one they come in on the loopback address, in plain text.
        timeout_s: bound on the start.

    Raises:
        BrokerError: it does not start, or the kind asked for is not installed.
    """
    home = home.resolve()
    running = _answering_broker(home)
    if running is not None:
        if kind not in (None, running.kind):
            raise BrokerError(
                f"a {running.kind} broker runs under {home} already; stop it before starting {kind}"
            )
        is_as_asked = tls is None or (running.is_tls and running.stations == f"{tls.host}:{tls.port}")
        if gateway in (None, running.gateway) and is_as_asked and (tls is not None or not running.is_tls):
            return running
        running.stop()
    for pid, child in list(_children.items()):
        if child.poll() is not None:  # killed from outside
            del _children[pid]
    if tls is not None and not is_free(tls.port, tls.host):
        raise BrokerError(
            f"port {tls.port} of {tls.host}, for stations by TLS, is taken: set AUTONVIS_MQTT_TLS_PORT"
        )
    kinds = KINDS if tls is None else WITH_TLS
    if kind is not None and kind not in kinds:
        raise BrokerError(f"stations by TLS need one of {', '.join(WITH_TLS)}, not {kind}")
    problems = []
    for candidate in kinds if kind is None else (kind,):
        prepare = _PREPARE[candidate]
        directory = home / "broker" / candidate
        try:
            broker = _start(home, candidate, prepare, directory, port, gateway, tls, timeout_s)
        except BrokerError as error:
            problems.append(str(error))
            level = logging.DEBUG if isinstance(error, NotInstalled) else logging.WARNING
            log.log(level, "%s", error)
            continue
        log.info("MQTT broker %s on %s: %s", candidate, broker.address, broker.durability)
        return broker
    raise BrokerError("no MQTT broker: " + "; ".join(problems))


def installed_kinds() -> list[Kind]:
    """What `start_broker` could start here, the best first."""
    programs = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/usr/local/sbin"
    found: list[Kind] = []
    try:
        rabbitmq_script()
        found.append("rabbitmq")
    except NotInstalled:
        pass
    if shutil.which("mosquitto", path=programs):
        found.append("mosquitto")
    if shutil.which("nats-server", path=programs):
        found.append("nats")
    return [*found, "embedded"]


def running_broker(home: Path) -> Broker | None:
    """The private broker that runs under `home`, started by this or another process."""
    try:
        state = json.loads(_state_path(home).read_text())
    except FileNotFoundError:
        return None
    if not is_running(state["pid"], state["start_s"]):
        return None
    return Broker(**state, home=home)


def _answering_broker(home: Path) -> Broker | None:
    """The broker that runs and answers. One that was killed a moment ago may still be listed, and is waited for."""
    deadline_s = time.monotonic() + END_WAIT_S
    while (broker := running_broker(home)) is not None:
        try:
            ping(broker.url, timeout_s=2.0)
        except BrokerUnavailable as error:
            if time.monotonic() > deadline_s:
                raise BrokerError(
                    f"the {broker.kind} broker of {home}, process {broker.pid}, runs but does not answer ({error}); "
                    "stop it first"
                ) from error
            time.sleep(0.05)
        else:
            return broker
    return None


def stop_broker(home: Path) -> bool:
    """Stops the private broker of `home`; returns whether one was running."""
    broker = running_broker(home)
    if broker is None:
        _state_path(home).unlink(missing_ok=True)
        return False
    broker.stop()
    return True


@dataclass(frozen=True)
class _Launch:
    command: list[str]
    environment: dict[str, str]
    program: str
    """Beginning of the name of the process that is the broker itself."""
    metrics_url: str | None = None


def _start(
    home: Path,
    kind: Kind,
    prepare: Callable[[Path, dict[str, Any]], _Launch],
    directory: Path,
    port: int,
    gateway: str | None,
    tls: StationTls | None,
    timeout_s: float,
) -> Broker:
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o700)
    parameters = {**_parameters(directory, port), "gateway": gateway, **_tls_parameters(tls)}
    launch = prepare(directory, parameters)
    log_path = directory / "broker.log"
    with log_path.open("ab") as output:
        process = subprocess.Popen(
            launch.command,
            env=launch.environment,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    address = f"127.0.0.1:{parameters['port']}"
    url = f"mqtt://{parameters['username']}:{parameters['password']}@{address}"
    consumer_url = f"mqtt://{parameters['consumer']}:{parameters['consumer_password']}@{address}"
    stations = f"127.0.0.1:{parameters['station_port']}" if kind == "mosquitto" else address
    stations = stations if tls is None else f"{tls.host}:{tls.port}"
    deadline_s = time.monotonic() + timeout_s
    try:
        while True:
            if process.poll() is not None:
                raise BrokerError(
                    f"{kind} ended with status {process.returncode} on start; its log is {log_path}"
                )
            try:
                ping(url, timeout_s=5.0)
                break
            except BrokerUnavailable as error:
                if time.monotonic() > deadline_s:
                    raise BrokerError(
                        f"{kind} is not ready after {timeout_s:g} s ({error}); its log is {log_path}"
                    ) from error
                time.sleep(0.1)
        pid = _program_pid(process.pid, launch.program)
    except BaseException:
        _kill_tree(process)
        raise
    broker = Broker(
        url,
        kind,
        pid,
        started_s(pid),
        home,
        consumer_url,
        stations,
        gateway,
        launch.metrics_url,
        is_tls=tls is not None,
    )
    _children[pid] = process
    state = {name: value for name, value in vars(broker).items() if name != "home"}
    write_private(_state_path(home), json.dumps(state, indent=1))
    return broker


def _tls_parameters(tls: StationTls | None) -> dict[str, Any]:
    if tls is None:
        return {"is_tls": False}
    certificate, key = tls.certificate.resolve(), tls.key.resolve()
    return {
        "is_tls": True,
        "tls_host": tls.host,
        "tls_port": tls.port,
        "tls_cert": certificate,
        "tls_key": key,
    }


def _prepare_rabbitmq(directory: Path, parameters: dict[str, Any]) -> _Launch:
    script = rabbitmq_script()
    amqp_port, distribution_port, metrics_port = free_port(), free_port(), free_port()
    values = {
        **parameters,
        "amqp_port": amqp_port,
        "metrics_port": metrics_port,
        "directory": directory,
        "operator_hash": _rabbitmq_hash(parameters["password"]),
        "consumer_hash": _rabbitmq_hash(parameters["consumer_password"]),
    }
    _configure("rabbitmq/definitions.json", directory, values)
    _configure("rabbitmq/enabled_plugins", directory, {})
    configuration = _configure("rabbitmq/rabbitmq.conf", directory, values)
    if parameters["gateway"]:
        stations = _configure("rabbitmq/stations.conf", directory, values)
        write_private(configuration, configuration.read_text() + stations.read_text())
    if parameters["is_tls"]:
        _append("rabbitmq/tls.conf", configuration, values)
    (directory / "rabbitmq-env.conf").write_text(
        "# empty: the machine's own node has its settings elsewhere\n"
    )
    environment = {
        **rabbitmq_environment(directory, parameters["node"]),
        "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq.conf"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "enabled_plugins"),
        "RABBITMQ_MNESIA_BASE": str(directory / "mnesia"),
        "RABBITMQ_LOG_BASE": str(directory / "log"),
        "RABBITMQ_DIST_PORT": str(distribution_port),
        "ERL_FLAGS": "-kernel inet_dist_use_interface {127,0,0,1}",
    }
    return _Launch([str(script)], environment, "beam", f"http://127.0.0.1:{metrics_port}/metrics")


def rabbitmq_environment(directory: Path, node: str) -> dict[str, str]:
    """What the server and its command-line tools must agree on: node and cookie of this home's own."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "LANG": "C.UTF-8",
        "HOME": str(directory),
        "RABBITMQ_NODENAME": f"{node}@localhost",
        "RABBITMQ_CONF_ENV_FILE": str(directory / "rabbitmq-env.conf"),
        # The node speaks to nobody: its distribution and epmd stay on the loopback address.
        "ERL_EPMD_ADDRESS": "127.0.0.1",
    }


def rabbitmq_control(broker: Broker, *command: str, timeout_s: float) -> None:
    """Runs a command of `rabbitmqctl` on the private RabbitMQ.

    Raises:
        BrokerError: it fails; the message has its last words.
    """
    directory = broker.home / "broker" / "rabbitmq"
    node = json.loads((directory / "parameters.json").read_text())["node"]
    done = subprocess.run(
        [str(rabbitmq_script().with_name("rabbitmqctl")), "--node", f"{node}@localhost", *command],
        env=rabbitmq_environment(directory, node),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )
    if done.returncode:
        raise BrokerError(f"rabbitmqctl {command[0]}: {(done.stderr or done.stdout).strip()}")


def reload_certificate(broker: Broker) -> None:
    """Has the broker give stations that connect later its certificate as the files are now; open connections go on.

    Raises:
        BrokerError: it has none, or does not read it.
    """
    if not broker.is_tls:
        raise BrokerError(
            f"the {broker.kind} of {broker.home} takes stations without TLS: it has no certificate"
        )
    if broker.kind == "rabbitmq":
        # It would look by itself, within two minutes.
        rabbitmq_control(broker, "eval", "ssl:clear_pem_cache().", timeout_s=RELOAD_TIMEOUT_S)
    else:
        os.kill(broker.pid, signal.SIGHUP)


def _rabbitmq_hash(password: str) -> str:
    salt = secrets.token_bytes(4)
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


def rabbitmq_script() -> Path:
    found = shutil.which("rabbitmq-server")
    candidates = [Path(found).resolve()] if found else []
    # Distribution packages put a wrapper on the PATH that switches user; the script itself lies with the library.
    for root in ("/usr/lib/rabbitmq", "/usr/local/lib/rabbitmq", "/opt/rabbitmq"):
        candidates += sorted(Path(root).glob("lib/*/sbin/rabbitmq-server"), reverse=True)
    for script in candidates:
        is_script = (script.parent / "rabbitmq-env").exists()
        if is_script and any((script.parent.parent / "plugins").glob("rabbitmq_mqtt-*")):
            return script
    raise NotInstalled("RabbitMQ with its MQTT plugin is not installed")


def _prepare_mosquitto(directory: Path, parameters: dict[str, Any]) -> _Launch:
    program = shutil.which(
        "mosquitto", path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/usr/local/sbin"
    )
    if program is None:
        raise NotInstalled("Mosquitto is not installed")
    write_private(
        directory / "passwords",
        f"{parameters['username']}:{mosquitto_hash(parameters['password'])}\n"
        f"{parameters['consumer']}:{mosquitto_hash(parameters['consumer_password'])}\n",
    )
    stations = directory / "stations"  # the gateway fills it
    if not stations.exists():
        write_private(stations, "")
    if not is_free(parameters["station_port"]):
        raise BrokerError(f"port {parameters['station_port']}, for Mosquitto's stations, is taken")
    values = {
        **parameters,
        "directory": directory,
        "user": pwd.getpwuid(os.geteuid()).pw_name,
        "packet_bytes": MESSAGE_BYTES + HEADER_BYTES,
    }
    for name in ("mosquitto.conf", "acl", "stations_acl"):
        _configure(f"mosquitto/{name}", directory, values)
    if parameters["is_tls"]:
        _append("mosquitto/tls.conf", directory / "mosquitto.conf", values)
    return _Launch([program, "-c", str(directory / "mosquitto.conf")], dict(os.environ), "mosquitto")


def _prepare_nats(directory: Path, parameters: dict[str, Any]) -> _Launch:
    program = shutil.which(
        "nats-server", path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/usr/local/sbin"
    )
    if program is None:
        raise NotInstalled("NATS is not installed")
    metrics_port = free_port()
    _configure(
        "nats/nats.conf", directory, {**parameters, "metrics_port": metrics_port, "directory": directory}
    )
    return _Launch(
        [program, "-c", str(directory / "nats.conf")],
        dict(os.environ),
        "nats-server",
        f"http://127.0.0.1:{metrics_port}/jsz?streams=true",
    )


def _configure(template: str, directory: Path, values: dict[str, Any]) -> Path:
    """Fills in `infra/<template>` and writes it to `directory`, for its owner only; returns the path."""
    source = INFRA / template
    text = Template(source.read_text()).substitute(values, window=BATCH_MESSAGES, message_bytes=MESSAGE_BYTES)
    write_private(directory / source.name, text)
    return directory / source.name


def _append(template: str, configuration: Path, values: dict[str, Any]) -> None:
    write_private(
        configuration, configuration.read_text() + Template((INFRA / template).read_text()).substitute(values)
    )


def _prepare_embedded(directory: Path, parameters: dict[str, Any]) -> _Launch:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, (str(INFRA.parent), os.environ.get("PYTHONPATH")))),
    }
    path = directory / "embedded.json"
    write_private(path, json.dumps(parameters))
    command = [sys.executable, "-m", "services.embedded_broker", str(path)]
    return _Launch(command, environment, "")


_PREPARE: dict[Kind, Callable[[Path, dict[str, Any]], _Launch]] = {
    "rabbitmq": _prepare_rabbitmq,
    "mosquitto": _prepare_mosquitto,
    "nats": _prepare_nats,
    "embedded": _prepare_embedded,
}


def _parameters(directory: Path, port: int) -> dict[str, Any]:
    """Credentials and node name, made once: RabbitMQ's database belongs to both. The port stays while it is free."""
    path = directory / "parameters.json"
    name = f"autonvis-{secrets.token_hex(3)}"
    parameters: dict[str, Any] = {
        "username": name,
        "password": secrets.token_urlsafe(24),
        "consumer": f"{name}-consumer",
        "consumer_password": secrets.token_urlsafe(24),
        "node": f"autonvis_{secrets.token_hex(6)}",
        "port": 0,
        "station_port": free_port(),
    }
    if path.exists():
        parameters |= json.loads(path.read_text())
    if port:
        if not is_free(port):
            raise BrokerError(f"port {port} is taken: choose another, or 0 for a free one")
        parameters["port"] = port
    elif not parameters["port"]:
        parameters["port"] = free_port()
    elif not _becomes_free(parameters["port"]):
        known, parameters["port"] = parameters["port"], free_port()
        log.warning("port %d is taken: the broker moves to %d; tell its stations", known, parameters["port"])
    write_private(path, json.dumps(parameters, indent=1))
    return parameters


def _program_pid(pid: int, program: str) -> int:
    """The process below `pid` (or itself) that is the broker: start scripts stay in between."""
    if not program:
        return pid
    parent = psutil.Process(pid)
    for process in (parent, *parent.children(recursive=True)):
        if process.name().startswith(program):
            return process.pid
    raise BrokerError(f"process {pid} has started no {program}")


def _kill_tree(process: subprocess.Popen[bytes]) -> None:
    try:
        parent = psutil.Process(process.pid)
        family = [*parent.children(recursive=True), parent]
    except psutil.NoSuchProcess:
        family = []
    kill_all(family)
    process.wait(10.0)


def _becomes_free(port: int) -> bool:
    """Stations know the port: the threads of a broker that was killed a moment ago may still hold it."""
    deadline_s = time.monotonic() + PORT_WAIT_S
    while not is_free(port):
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.05)
    return True


def _state_path(home: Path) -> Path:
    return home / "run" / "broker.json"


def write_private(path: Path, text: str) -> None:
    """Replaces `path` whole, readable by the owner only: it may hold a password."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    partial.touch(mode=0o600)
    partial.write_text(text)
    os.replace(partial, path)
