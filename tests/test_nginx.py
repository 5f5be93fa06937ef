"""nginx as it stands in front: the real one, with our configuration, before the real web service and gateway."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from string import Template

import httpx
import pytest

from services.certificates import Certificate, make_certificate
from services.processes import free_port
from tests.landing.door_server import IONOGRAM, Server
from tests.web_server import WebServer, settings_of

ROOT = Path(__file__).resolve().parents[1]
WEB, LANDING = "nvis.example", "landing.nvis.example"


@dataclass
class Edge:
    https: int
    http: int
    certificate: Certificate

    def ask(self, name: str, method: str, path: str, **more: object) -> httpx.Response:
        """By the public name, at the address where nginx listens."""
        context = ssl.create_default_context(cafile=str(self.certificate.authority))
        with httpx.Client(verify=context, timeout=30, trust_env=False) as client:
            request = client.build_request(
                method, f"https://127.0.0.1:{self.https}{path}", extensions={"sni_hostname": name}, **more,  # type: ignore[arg-type]
            )  # fmt: skip
            request.headers["host"] = name
            return client.send(request)


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    nginx = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    if nginx is None:
        pytest.skip("nginx is not installed (Debian: nginx-light)")
    folder = tmp_path_factory.mktemp("nginx")
    certificate = make_certificate(folder / "tls", [WEB, LANDING])
    gateway, web = (
        Server(tmp_path_factory.mktemp("gateway")),
        WebServer(settings_of(tmp_path_factory.mktemp("web"))),
    )
    http, https = free_port(), free_port()
    values = {
        "TLS_CERT": certificate.certificate, "TLS_KEY": certificate.key, "LISTEN": "127.0.0.1:", "HTTPS_PORT": https,
        "HTTP_PORT": http, "WEB_NAME": WEB, "LANDING_NAME": LANDING, "ACME_ROOT": folder / "acme",
        "WEB": f"127.0.0.1:{web.port}", "GATEWAY": gateway.url.removeprefix("http://"), "GRAFANA": f"127.0.0.1:{free_port()}",
    }  # fmt: skip
    template = (ROOT / "infra" / "nginx" / "autonvis.conf.template").read_text()
    for name, value in values.items():
        template = template.replace(f"${{{name}}}", str(value))
    assert "${" not in template
    (folder / "autonvis.conf").write_text(template)
    (folder / "nginx.conf").write_text(
        Template(
            "daemon off; worker_processes 1; pid $folder/pid; error_log $folder/error.log;\n"
            "events { worker_connections 256; }\n"
            "http { access_log off; client_body_temp_path $folder/body; proxy_temp_path $folder/proxy;\n"
            "fastcgi_temp_path $folder/f; uwsgi_temp_path $folder/u; scgi_temp_path $folder/s; include $folder/autonvis.conf; }\n"
        ).substitute(folder=folder)
    )
    command = [nginx, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]
    checked = subprocess.run([*command, "-t"], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    assert "warn" not in checked.stderr
    process = subprocess.Popen(command)
    try:
        deadline_s = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", https), 1).close()
                break
            except OSError:
                assert process.poll() is None, (folder / "error.log").read_text()
                assert time.monotonic() < deadline_s
                time.sleep(0.05)
        yield Edge(https, http, certificate)
    finally:
        process.terminate()
        process.wait(10)
        web.stop()
        gateway.stop()


def test_people_reach_the_web_service(edge: Edge) -> None:
    answer = edge.ask(WEB, "GET", "/")
    assert answer.status_code == 200
    assert answer.headers["strict-transport-security"] == "max-age=31536000"
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    assert answer.headers["server"] == "nginx"  # and no version
    assert edge.ask(WEB, "GET", "/openapi.json").json()["openapi"]


def test_sounders_register_and_send(edge: Edge) -> None:
    credential = edge.ask(LANDING, "POST", "/register", json={"sounder_id": "EDGE1"}).json()["credential"]
    headers = {"authorization": f"Bearer {credential}"}
    answer = edge.ask(LANDING, "POST", "/ionogram", json={**IONOGRAM, "sounder_id": "EDGE1"}, headers=headers)
    assert answer.status_code == 202
    assert answer.json()["receipts"][0]["status"] == "accepted"
    assert edge.ask(LANDING, "GET", "/sounders/EDGE1", headers=headers).status_code == 200
    assert edge.ask(LANDING, "POST", "/ionogram", json={**IONOGRAM, "sounder_id": "EDGE1"}).status_code == 401


@pytest.mark.parametrize(
    ("name", "method", "path"),
    [
        (WEB, "GET", "/metrics"),
        (WEB, "POST", "/ionogram"),
        (LANDING, "GET", "/metrics"),
        (LANDING, "GET", "/"),
        (LANDING, "POST", "/broker/user"),
        (LANDING, "POST", "/ionogram/../broker/user"),
        (LANDING, "POST", "//broker/user"),
        (LANDING, "POST", "/sounders/../broker/user"),
        (LANDING, "POST", "/sounders/x/..%2f..%2fbroker/user"),
        (LANDING, "GET", "/api/"),
    ],
)
def test_nothing_else_is_exposed(edge: Edge, name: str, method: str, path: str) -> None:
    context = ssl.create_default_context(cafile=str(edge.certificate.authority))
    with (
        socket.create_connection(("127.0.0.1", edge.https), 10) as plain,
        context.wrap_socket(plain, server_hostname=name) as wrapped,
    ):
        wrapped.sendall(
            f"{method} {path} HTTP/1.1\r\nHost: {name}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()
        )
        answer = b""
        while chunk := wrapped.recv(65_536):
            answer += chunk
    assert answer.split()[1] in (b"404", b"405"), answer
    assert b"allow" not in answer.partition(b"\r\n\r\n")[2]


def test_bodies_and_rates_are_limited(edge: Edge) -> None:
    assert edge.ask(LANDING, "POST", "/ionogram", content=b"x" * (8 * 2**20 + 1)).status_code == 413
    assert edge.ask(WEB, "POST", "/api/nvis/simulate", content=b"x" * (2**16 + 1)).status_code == 413
    statuses = {edge.ask(LANDING, "POST", "/register", content=b"{}").status_code for _ in range(20)}
    assert 429 in statuses


def test_plain_http_reads_by_a_redirect_and_writes_nothing(edge: Edge) -> None:
    url = f"http://127.0.0.1:{edge.http}/report/?x=1"
    answer = httpx.get(url, headers={"host": WEB}, trust_env=False)
    assert (answer.status_code, answer.headers["location"]) == (301, f"https://{WEB}/report/?x=1")
    assert httpx.post(url, headers={"host": LANDING}, json={}, trust_env=False).status_code == 403


def test_old_protocols_and_other_names_get_no_connection(edge: Edge) -> None:
    context = ssl.create_default_context(cafile=str(edge.certificate.authority))
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1_2, version
        with (
            socket.create_connection(("127.0.0.1", edge.https), 10) as plain,
            context.wrap_socket(plain, server_hostname=WEB) as wrapped,
        ):
            assert wrapped.version() == version.name.replace("_", ".")
    with socket.create_connection(("127.0.0.1", edge.https), 10) as plain, pytest.raises(ssl.SSLError):
        context.wrap_socket(plain, server_hostname="other.example")
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.set_ciphers("ALL:@SECLEVEL=0")
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection(("127.0.0.1", edge.https), 10) as plain,
        pytest.raises((ssl.SSLError, OSError)),
    ):
        old.wrap_socket(plain, server_hostname=WEB)
