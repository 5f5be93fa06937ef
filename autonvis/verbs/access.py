"""Who may come in: credentials of sounders and certificates."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from autonvis.verbs.parser import Verbs
from tasks.settings import Settings


def add(verbs: Verbs) -> None:
    """Adds these verbs."""
    sub = verbs.add(
        "credentials",
        show_credentials,
        "List, replace and revoke the credentials of sounders.",
        "autonvis credentials list --ended\n"
        "autonvis credentials rotate TST01 --overlap-h 24 --expires 2027-01-01T00:00Z\n"
        "autonvis credentials revoke TST01",
    )
    actions = sub.add_subparsers(dest="action", required=True, metavar="ACTION")
    text = "List the valid credentials: a name, never the credential itself."
    sub = actions.add_parser("list", help=text, description=text)
    sub.add_argument("sounder", nargs="?", help="only of this sounder")
    sub.add_argument("--ended", action="store_true", help="those that expired or were revoked too")
    sub.set_defaults(run=show_credentials)
    text = "Print a new credential, only this once; those that the sounder had end."
    sub = actions.add_parser("rotate", help=text, description=text)
    sub.add_argument("sounder")
    sub.add_argument(
        "--expires", metavar="TIME", help="end of the new one, ISO-8601 with zone; default never"
    )
    sub.add_argument(
        "--overlap-h", type=float, default=0.0, metavar="H",
        help="hours that the old ones go on (default 0); Mosquitto knows the new one only",
    )  # fmt: skip
    sub.set_defaults(run=rotate_credential)
    text = "End every credential of a sounder; a new one comes with `rotate`."
    sub = actions.add_parser("revoke", help=text, description=text)
    sub.add_argument("sounder")
    sub.set_defaults(run=revoke_credential)
    sub = verbs.add(
        "certificates",
        make_certificates,
        "Make a private certificate authority, or use the one that is there, and a server certificate by it.",
        "autonvis certificates tls nvis.lan 192.168.1.10",
    )
    sub.add_argument("directory", type=Path, metavar="DIR", help="where the files are kept")
    sub.add_argument("names", nargs="+", metavar="NAME", help="host names and addresses of the server")
    sub.add_argument("--days", type=int, default=397, help="validity of the server certificate (default 397)")
    verbs.add(
        "reload-certificates",
        reload_certificates,
        "After the files of AUTONVIS_TLS_CERT and AUTONVIS_TLS_KEY were renewed: have the broker use them for stations that connect "
        "from now on. The gateway does so by itself.",
        "certbot renew --deploy-hook 'autonvis reload-certificates'",
    )
    verbs.add(
        "mosquitto-users",
        show_mosquitto_users,
        "Print the stations' lines for the password file of a Mosquitto of your own.",
    )


def show_credentials(settings: Settings, arguments: argparse.Namespace) -> None:
    from datetime import UTC, datetime

    from tasks import catalog
    from tasks.credentials import list_credentials

    engine = catalog.open_catalog(settings)
    issued = list_credentials(engine, arguments.sounder, now=datetime.now(UTC), with_ended=arguments.ended)
    print(f"{'sounder':24s} {'credential':10s} {'issued':17s} {'ends':17s} state")
    for one in issued:
        ends = f"{one.expires_at:%Y-%m-%dT%H:%MZ}" if one.expires_at else "-"
        print(f"{one.sounder_id:24s} {one.name:10s} {one.issued_at:%Y-%m-%dT%H:%MZ} {ends:17s} {one.state}")


def rotate_credential(settings: Settings, arguments: argparse.Namespace) -> None:
    from datetime import UTC, datetime, timedelta

    from tasks import catalog, credentials
    from tasks.cycles import parse_time

    now = datetime.now(UTC)
    expires_at = parse_time(arguments.expires, "--expires") if arguments.expires else None
    credential = credentials.rotate(
        catalog.open_catalog(settings),
        arguments.sounder,
        now=now,
        expires_at=expires_at,
        overlap=timedelta(hours=arguments.overlap_h),
    )
    print(credential)
    old = f"in {arguments.overlap_h:g} h" if arguments.overlap_h else "now"
    print(
        f"shown only this once, for {arguments.sounder}; "
        + (f"it expires {expires_at:%Y-%m-%dT%H:%MZ}; " if expires_at else "")
        + f"what it had ends {old}",
        file=sys.stderr,
    )


def revoke_credential(settings: Settings, arguments: argparse.Namespace) -> None:
    from datetime import UTC, datetime

    from tasks import catalog, credentials

    n_revoked = credentials.revoke(catalog.open_catalog(settings), arguments.sounder, now=datetime.now(UTC))
    print(
        f"{arguments.sounder}: {n_revoked} revoked; HTTP and TCP refuse it within 10 s, MQTT within about 30 s"
        if n_revoked
        else f"{arguments.sounder} has no valid credential: nothing to revoke"
    )
    if n_revoked and settings.mqtt_url:
        print(
            "on a RabbitMQ of your own, end its open connections: "
            f"rabbitmqctl close_all_user_connections {arguments.sounder} revoked (RabbitMQ 3.12 or newer; before, restart it)"
        )


def make_certificates(_: Settings, arguments: argparse.Namespace) -> None:
    from services.certificates import make_certificate

    made = make_certificate(arguments.directory, arguments.names, days=arguments.days)
    print(f"AUTONVIS_TLS_CERT={made.certificate.resolve()}")
    print(f"AUTONVIS_TLS_KEY={made.key.resolve()}")
    print(
        f"valid until {made.expires_at:%Y-%m-%d}; stations trust {made.authority}; keep {arguments.directory}/ca.key "
        "away from the network",
        file=sys.stderr,
    )


def reload_certificates(settings: Settings, _: argparse.Namespace) -> None:
    from services.broker import reload_certificate, running_broker

    broker = running_broker(settings.home)
    if broker is None:
        raise ValueError(
            f"no broker of {settings.home} runs: it reads the certificate when `make up` starts it"
        )
    reload_certificate(broker)
    print(
        f"{broker.kind} gives stations that connect from now on the certificate as it is now; the gateway looks by itself"
    )


def show_mosquitto_users(settings: Settings, _: argparse.Namespace) -> None:
    from services.mosquitto_users import password_file

    print(password_file(settings), end="")
