"""kill -9 at a random moment of a recording: the trace opens, seals and replays up to what was written."""

import os
import random
import signal
import subprocess
import time

from dejavm import Failure, main


def one(dejavm, engine, number, delay):
    trace = dejavm.path(f"kill-{number}.dvm")
    command = [dejavm.binary, "record", "-o", trace, "--engine", engine, "--no-seal", "--serial", "null",
               "--append", "preemptions=1000000", dejavm.guest("preempt")]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE)
    deadline = time.time() + 20
    while not os.path.exists(trace):  # killed before there is a file: nothing to test
        if time.time() > deadline or process.poll() is not None:
            raise Failure(f"run {number}: no trace appeared: {process.stderr.read()[-500:]!r}")
        time.sleep(0.002)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    if process.returncode != -signal.SIGKILL:
        raise Failure(f"run {number}: the recorder had ended by itself, status {process.returncode}")
    return trace


def check(dejavm, number, trace, delay):
    out, err, status = dejavm.run("info", trace, "--json", status=None)
    if status != 0:
        raise Failure(f"run {number}, killed after {delay:.3f} s: info gives status {status}: {err}")
    if b'"cut_short": true' not in out and b'"cut_short":true' not in out:
        raise Failure(f"run {number}: info does not say that the trace was cut short: {out!r}")
    _, err, _ = dejavm.run("verify", trace, timeout=300)
    events = dejavm.json("info", trace)["events"]
    os.unlink(trace)
    return events


def test(dejavm, arguments):
    dice = random.Random(arguments.seed)
    events = []
    for i in range(arguments.runs):
        delay = dice.random() * dice.choice([0.05, 0.4, 1.0])
        trace = one(dejavm, arguments.engine, i, delay)
        events.append(check(dejavm, i, trace, delay))
    usable = sum(1 for e in events if e)
    if usable < arguments.runs // 3:
        raise Failure(f"only {usable} of {arguments.runs} killed recordings held any event")
    return (f"{arguments.runs} recordings under {arguments.engine} killed: all open and replay to where they end; "
            f"events in them: {min(events)} to {max(events)}")


main(test)
