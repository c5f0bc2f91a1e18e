"""
The user-mode network with Debian's kernel in it: DHCP, a download from a server on this host's loopback, an upload, and connections
from the host by forwarded ports. The recording seals, and replays when the servers are gone.
"""

import hashlib
import http.server
import os
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../endtoend"))
import linux_guest  # noqa: E402
from dejavm import Dejavm, Failure  # noqa: E402

APPEND = "console=ttyS0 quiet panic=-1 reboot=t cryptomgr.notests mitigations=off"
DOWNLOAD_BYTES = 1_000_000
PATIENCE_S = 120

DHCP_SCRIPT = """#!/bin/sh
[ "$1" = bound ] || exit 0
ip addr add "$ip/$mask" dev "$interface"
ip route add default via "$router"
echo "bound $ip router $router dns $dns"
"""

SCRIPT = """
ip link set lo up
ip link set eth0 up
udhcpc -q -n -i eth0 -s /udhcpc
wget -q -O /tmp/download http://10.0.2.2:{http}/file
sha256sum </tmp/download
nc 10.0.2.2 {upload} </tmp/download
mkdir /www
echo "from the guest" >/www/page
httpd -p 80 -h /www
echo listening
nc -l -p 7777 >/tmp/said
echo "the host said: $(cat /tmp/said)"
wget -q -O - http://10.0.2.2:{closed}/ 2>&1 || true
"""


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def serve_file(content):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


class Receiver(threading.Thread):
    """Takes one connection, and what comes over it."""

    def __init__(self):
        super().__init__(daemon=True)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.received = b""
        self.start()

    def run(self):
        with self.listener, self.listener.accept()[0] as peer:
            while part := peer.recv(65536):
                self.received += part


def expect(console, *wanted):
    for text in wanted:
        if text.encode() not in console:
            raise Failure(f"the console lacks {text!r}; it ends with:\n{console[-3000:].decode('utf-8', 'replace')}")


def read_until(guest, console, text):
    while text not in console:
        part = os.read(guest.stdout.fileno(), 65536)
        if not part:
            raise Failure(f"no {text!r}: {console[-3000:]!r} {guest.stderr.read().decode()}")
        console += part
    return console


def say(port, text):
    """To the guest's nc, which may not listen yet: a forwarded connection is then closed without an answer, and tried again."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as s:
            try:
                s.sendall(text)
                s.shutdown(socket.SHUT_WR)
                s.recv(1)  # the end of the connection, orderly when somebody took it
                return
            except OSError:
                continue
    raise Failure(f"nobody listens behind port {port}")


def prepare(dejavm, folder, **ports):
    script, dhcp = dejavm.path("script"), dejavm.path("udhcpc")
    with open(script, "w") as out:
        out.write(SCRIPT.format(**ports))
    with open(dhcp, "w") as out:
        out.write(DHCP_SCRIPT)
    os.chmod(dhcp, 0o755)
    linux_guest.fetch(folder, "--script", script, "--add", f"{dhcp}=/udhcpc", "--module", "virtio_pci", "--module", "virtio_net",
                      "--vmlinux")


def downloads_uploads_and_forwarded_ports(dejavm, folder):
    content = os.urandom(DOWNLOAD_BYTES)
    server, receiver = serve_file(content), Receiver()
    web, talk = free_port(), free_port()
    prepare(dejavm, folder, http=server.server_port, upload=receiver.port, closed=free_port())
    trace = dejavm.path("network.dvm")
    command = [dejavm.binary, "record", "--engine", "emu", "--net", f"user,hostfwd=tcp::{web}-:80,hostfwd=tcp::{talk}-:7777",
               "--initrd", os.path.join(folder, "initrd.img"), "--append", APPEND, "--timeout", "240", "-o", trace,
               os.path.join(folder, "vmlinux")]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as guest:
        console = read_until(guest, b"", b"listening")
        with urllib.request.urlopen(f"http://127.0.0.1:{web}/page", timeout=PATIENCE_S) as page:
            if page.read() != b"from the guest\n":
                raise Failure("the guest's web server gave something else")
        say(talk, b"goodbye")
        rest, err = guest.communicate(timeout=400)
    console += rest
    server.shutdown()
    server.server_close()
    expect(console, "bound 10.0.2.15 router 10.0.2.2 dns 10.0.2.3", hashlib.sha256(content).hexdigest(), "the host said: goodbye",
           "Connection refused", "script ended with status 0")
    if b"replayed exactly" not in err:
        raise Failure(f"record said:\n{err.decode()}")
    if receiver.received != content:
        raise Failure(f"{len(receiver.received)} bytes were uploaded, of {len(content)}, or others")
    replayed, _, _ = dejavm.run("replay", trace, timeout=300)
    if replayed != console:
        raise Failure(f"the replay printed {len(replayed)} bytes, the recording {len(console)}")
    steps = re.search(r"replayed exactly, ([0-9,]+ steps)", err.decode())[1]
    return f"{2 * DOWNLOAD_BYTES} bytes down and up, {steps}"


def mistakes_are_named(dejavm, folder):
    kernel = os.path.join(folder, "vmlinuz")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        _, err, _ = dejavm.run("record", "--engine", "emu", "--net", f"user,hostfwd=tcp::{port}-:80", "-o", dejavm.path("x.dvm"),
                               kernel, status=1)
    if f"listen at 127.0.0.1, TCP port {port}: Address already in use" not in err:
        raise Failure(f"a port in use: {err}")
    for option, value, part in (("--net", "tap", "'tap'"), ("--net", "user,hostfwd=tcp::80", "'-'"),
                                ("--net", "user,restrict", "'restrict'"), ("--share", "/tmp,rw", "'rw'"),
                                ("--share", "/tmp,tag=", "tag=")):
        _, err, _ = dejavm.run("record", option, value, "-o", dejavm.path("x.dvm"), kernel, status=2)
        if option not in err or part not in err:
            raise Failure(f"{option} {value}: {err}")
    _, err, _ = dejavm.run("record", "--engine", "emu", "--share", "/nonexistent", "-o", dejavm.path("x.dvm"), kernel, status=1)
    if "shared folder /nonexistent: No such file or directory" not in err:
        raise Failure(f"a missing folder: {err}")
    if os.path.exists(dejavm.path("x.dvm")):
        raise Failure("a recording that could not start left a trace")
    return "mistakes are named"


def main():
    binary, folder = sys.argv[1:]
    dejavm = Dejavm(binary, folder)
    try:
        linux_guest.fetch(folder)
        for test in (mistakes_are_named, downloads_uploads_and_forwarded_ports):
            started = time.time()
            print(f"{test(dejavm, folder)} ({time.time() - started:.1f} s)", flush=True)
    except linux_guest.Unavailable as reason:
        print(f"skipped: {reason}")
        sys.exit(linux_guest.SKIPPED)
    except Failure as failure:
        print(f"FAILED: {failure}", file=sys.stderr)
        sys.exit(1)
    finally:
        dejavm.close()


main()
