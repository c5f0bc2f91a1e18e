"""What the end-to-end tests share: running the real dejavm binary on the real example guests."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile


class Failure(Exception):
    pass


SKIPPED = 77


class Dejavm:
    """One binary, one folder of example guests, one scratch folder that goes away."""

    def __init__(self, binary, guests):
        self.binary = os.path.abspath(binary)
        self.guests = os.path.abspath(guests)
        self.scratch = tempfile.mkdtemp(prefix="dejavm-test-")

    def close(self):
        shutil.rmtree(self.scratch, ignore_errors=True)

    def path(self, name):
        return os.path.join(self.scratch, name)

    def guest(self, name):
        return os.path.join(self.guests, name)

    def run(self, *arguments, timeout=120, status=0, stdin=subprocess.DEVNULL):
        """Runs `dejavm arguments`; status is the exit status expected (None: any). Returns (stdout, stderr, status)."""
        command = [self.binary, *[str(a) for a in arguments]]
        try:
            done = subprocess.run(command, stdin=stdin, capture_output=True, timeout=timeout)
        except subprocess.TimeoutExpired as late:
            raise Failure(f"{' '.join(command)}: still running after {timeout} s") from late
        out = done.stdout
        err = done.stderr.decode("utf-8", "replace")
        if status is not None and done.returncode != status:
            raise Failure(
                f"{' '.join(command)}: exit status {done.returncode}, expected {status}\n"
                f"stdout: {out[-1500:]!r}\nstderr: {err[-3500:]}"
            )
        return out, err, done.returncode

    def json(self, *arguments, **options):
        out, _, _ = self.run(*arguments, "--json", **options)
        return json.loads(out)

    def kvm_usable(self):
        report = self.json("doctor", status=None)
        return bool(report["kvm"]["works"])


def checksum(console):
    """The line that preempt prints at its end."""
    found = re.findall(rb"checksum[ =:]+(?:0x)?([0-9a-f]+)", console)
    if not found:
        raise Failure(f"no checksum in the console output: {console[-400:]!r}")
    return found[-1]


def main(test):
    """test(dejavm, arguments): raises Failure, or returns a line that says what was seen."""
    import argparse

    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("guests")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--engine", default="emu")
    parser.add_argument("--load", action="store_true", help="keep the other core busy meanwhile")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    dejavm = Dejavm(arguments.binary, arguments.guests)
    burner = None
    try:
        if arguments.engine == "kvm" and not dejavm.kvm_usable():
            print("skipped: /dev/kvm cannot run a guest on this host (see `dejavm doctor`)")
            sys.exit(SKIPPED)
        if arguments.load:
            burner = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        print(test(dejavm, arguments))
    except Failure as failure:
        print(f"FAILED: {failure}", file=sys.stderr)
        sys.exit(1)
    finally:
        if burner:
            burner.kill()
            burner.wait()
        dejavm.close()
