"""A password as Mosquitto's password file keeps it: PBKDF2 with SHA-512."""

from __future__ import annotations

import base64
import hashlib
import secrets

ITERATIONS = 101
"""What mosquitto_passwd takes. Our passwords are random: nobody guesses them, however fast."""


def mosquitto_hash(password: str) -> str:
    """`$7$iterations$salt$hash`, salted anew at each call."""
    salt = secrets.token_bytes(12)
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, ITERATIONS)
    return f"$7${ITERATIONS}${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}"
