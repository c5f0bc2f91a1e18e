"""What the debugger tests share: recordings of the example guests, and the real gdb on them."""

import os
import re
import select
import shutil
import signal
import subprocess
import tempfile
import time
import unittest

DEJAVM = ""
EXAMPLES = ""
TIMEOUT = 120


def set_up(binary, examples):
    global DEJAVM, EXAMPLES
    DEJAVM, EXAMPLES = os.path.abspath(binary), os.path.abspath(examples)


def run(*arguments, status=0, **keywords):
    """`dejavm arguments`; status is the exit status expected (None: any)."""
    keywords.setdefault("timeout", TIMEOUT)
    done = subprocess.run([DEJAVM, *map(str, arguments)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, **keywords)
    if status is not None and done.returncode != status:
        raise AssertionError(f"{done.args}: status {done.returncode}\n{done.stdout[-2000:]!r}\n{done.stderr[-2000:]!r}")
    return done


def record(trace, guest, *options):
    """Records an example in the emulator, which every host can do; returns what it printed."""
    done = run("record", "--engine", "emu", "--force", "-o", trace, *options, os.path.join(EXAMPLES, guest))
    return done.stdout.decode()


PANIC = re.compile(r"PANIC in thread (\d), tick \d+: a free item is somebody else's \(item (\d), owner (\d)\)")


def record_panic(trace):
    """Records racy until a thread finds an item in the list that is somebody's: (thread, item, owner)."""
    for run_number in range(100):
        # By the host's clock a recording is as long as the emulator is fast, and gdb hears of each of its breakpoints.
        options = ("--clock", "virtual") if run_number == 0 else ()
        found = PANIC.search(record(trace, "racy", *options))
        if found:
            return tuple(int(n) for n in found.groups())
    raise AssertionError("racy did not panic in 100 runs")


def arguments_of(commands):
    """Command i's output stands behind a line @i."""
    for i, command in enumerate(commands):
        yield from ("-ex", f"echo \\n@{i}\\n", "-ex", command)
    yield from ("-ex", "echo \\n@end\\n")


def parts_of(text, count):
    parts = re.split(r"\n@(\d+|end)\n", text)
    if len(parts) != 2 * count + 3:
        raise AssertionError(f"gdb stopped early:\n{text[-4000:]}")
    return [p.strip("\n") for p in parts[2:-1:2]]


def gdb(trace, *commands, options=(), **keywords):
    """The output of each command in `dejavm debug TRACE`."""
    done = subprocess.run([DEJAVM, "debug", trace, *options, "--", "-nx", "-batch", *arguments_of(commands)],
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=TIMEOUT,
                          **keywords)
    return parts_of(done.stdout.decode("utf-8", "replace"), len(commands))


def position(text):
    """What `when` says."""
    found = re.search(r"position ([\d,]+) of", text)
    if not found:
        raise AssertionError(f"no position in {text!r}")
    return int(found.group(1).replace(",", ""))


class Case(unittest.TestCase):
    maxDiff = None

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.mkdtemp(prefix="dejavm-debug-test.")
        cls.addClassCleanup(shutil.rmtree, cls.folder)

    @classmethod
    def path(cls, name):
        return os.path.join(cls.folder, name)

    def matches(self, text, *patterns):
        for pattern in patterns:
            self.assertRegex(text, pattern)


class Process:
    """A process that is talked to: waits for text in what it prints."""

    def __init__(self, *command, **keywords):
        self.process = subprocess.Popen([str(c) for c in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT, **keywords)
        self.text = ""

    def wait_for(self, pattern, timeout=TIMEOUT):
        """What was printed up to the end of the first match; it is taken out."""
        deadline = time.monotonic() + timeout
        while True:
            found = re.search(pattern, self.text)
            if found:
                seen, self.text = self.text[: found.end()], self.text[found.end():]
                return seen
            ready, _, _ = select.select([self.process.stdout], [], [], max(0, deadline - time.monotonic()))
            data = os.read(self.process.stdout.fileno(), 65536) if ready else b""
            if not data:
                raise AssertionError(f"no {pattern!r} in {self.text[-3000:]!r}")
            self.text += data.decode("utf-8", "replace")

    def say(self, line):
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def interrupt(self):
        self.process.send_signal(signal.SIGINT)

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


class Server(Process):
    """`dejavm gdbserver` on a free port."""

    def __init__(self, trace, *options):
        super().__init__(DEJAVM, "gdbserver", trace, "--listen", "127.0.0.1:0", *options)
        self.address = re.search(r"target remote (\S+)'", self.wait_for(r"target remote \S+'\n")).group(1)

    def gdb(self, *commands):
        """A gdb that connects, runs commands and leaves."""
        done = subprocess.run(["gdb", "-nx", "-q", "-batch", *arguments_of([f"target remote {self.address}", *commands])],
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=TIMEOUT)
        return parts_of(done.stdout.decode("utf-8", "replace"), len(commands) + 1)[1:]
