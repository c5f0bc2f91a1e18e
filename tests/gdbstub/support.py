"""What the tests of the GDB server share: the server's process, a raw client, and the real gdb in batch mode."""
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest

TESTS = sys.argv[1] if len(sys.argv) > 1 else ""  # the build's tests directory
SERVE = os.path.join(TESTS, "gdbstub_serve")
GUESTS = os.path.join(TESTS, "gdbstub-guests")
DEADLINE_S = 60


def guest(name):
    return os.path.join(GUESTS, name)


class Server:
    """gdbstub_serve; its log can be waited for line by line."""

    def __init__(self, mode="64", image="guest64", listen=None, *options):
        self.directory = tempfile.TemporaryDirectory()
        listen = listen or "unix:" + os.path.join(self.directory.name, "gdb")
        self.process = subprocess.Popen([SERVE, listen, mode, guest(image + ".bin"), *options], stdout=subprocess.PIPE,
                                        text=True)
        self.timer = threading.Timer(DEADLINE_S, self.process.kill)
        self.timer.start()
        self.name = self.wait_for("listening on ").split()[-1]

    def line(self):
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError("the server ended, status %s" % self.process.wait())
        return line.rstrip("\n")

    def wait_for(self, start):
        while True:
            line = self.line()
            if line.startswith(start):
                return line

    def connect(self):
        if self.name.startswith("/"):
            s = socket.socket(socket.AF_UNIX)
            s.connect(self.name)
        else:
            host, port = self.name.rsplit(":", 1)
            s = socket.create_connection((host.strip("[]"), int(port)))
        s.settimeout(DEADLINE_S)
        return s

    def close(self):
        """Ends the server; its exit status must be 0 (a sanitizer's finding is not)."""
        self.process.send_signal(signal.SIGTERM)
        rest = self.process.stdout.read()
        status = self.process.wait()
        self.timer.cancel()
        self.process.stdout.close()
        self.directory.cleanup()
        if status != 0:
            raise AssertionError("the server's exit status is %d: %s" % (status, rest))
        return rest.splitlines()


class Case(unittest.TestCase):
    def server(self, *arguments):
        server = Server(*arguments)
        self.addCleanup(server.close)
        return server


def packet(content):
    content = content if isinstance(content, bytes) else content.encode()
    return b"$" + content + b"#%02x" % (sum(content) & 0xff)


def receive_packet(s):
    """The next packet's content, as it was sent."""
    data = b""
    while not (b"#" in data and len(data) >= data.index(b"#") + 3):
        got = s.recv(1)
        if not got:
            raise EOFError(data)
        if data or got == b"$":
            data += got
    return data[1:data.index(b"#")]


def ask(s, content):
    s.sendall(packet(content))
    return receive_packet(s)


def is_closed(s):
    """Waits for the end of the connection."""
    try:
        while s.recv(65536):
            pass
        return True
    except (ConnectionResetError, BrokenPipeError):
        return True


def start_gdb(server, *commands, symbols=None, before=()):
    arguments = ["gdb", "-nx", "-q", "-batch", "-ex", "set confirm off", "-ex", "set width 0"]
    for command in before:
        arguments += ["-ex", command]
    if symbols:
        arguments += ["-ex", "file " + guest(symbols)]
    for command in ("target remote " + server.name, *commands):
        arguments += ["-ex", command]
    return subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def gdb(server, *commands, **options):
    """What the real gdb prints."""
    process = start_gdb(server, *commands, **options)
    try:
        return process.communicate(timeout=DEADLINE_S)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        raise AssertionError("gdb hangs: " + process.communicate()[0])


def main():
    unittest.main(argv=sys.argv[:1] + sys.argv[2:], verbosity=2)
