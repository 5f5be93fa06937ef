"""What Python can do while a call into the kernel runs: other threads go on, and Ctrl-C ends the call."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.reference.long_calls import CALLS

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("name", CALLS)
def test_other_threads_go_on(name: str) -> None:
    call = CALLS[name](False)
    done = threading.Event()
    ticks = 0

    def tick() -> None:
        nonlocal ticks
        while not done.wait(0.001):
            ticks += 1

    thread = threading.Thread(target=tick)
    thread.start()
    before = ticks
    call()
    during = ticks - before
    done.set()
    thread.join()
    # With the interpreter held, the other thread could go on once at either end of the call.
    assert during > 5


@pytest.mark.parametrize(
    "name", ["factorization", "map_of_many_stations", "candidates", "screening", "background"]
)
def test_ctrl_c_ends_a_call_that_would_take_minutes(name: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "tests.reference.long_calls", name],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "started\n"
            time.sleep(1.0)
            process.send_signal(signal.SIGINT)
            _, error = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == -signal.SIGINT
    assert error.endswith("KeyboardInterrupt\n"), error
