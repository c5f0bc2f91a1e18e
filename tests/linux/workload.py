"""
A day's work of Debian's kernel, recorded: it boots with ACPI, loads modules, forks, pipes, writes and checksums a disk, downloads over
the network, and powers off. Each recording seals, verifies, and replays the same console without disk, initrd and network.

workload.py DEJAVM FOLDER [BOOTS [MIB]]: how many recordings in a row (1), and the size of the disk (64).
"""

import hashlib
import http.server
import os
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../endtoend"))
import linux_guest  # noqa: E402
from dejavm import Dejavm, Failure  # noqa: E402

APPEND = "console=ttyS0 quiet panic=-1 cryptomgr.notests"
MODULES = [word for name in ("virtio_pci", "virtio_blk", "virtio_net") for word in ("--module", name)]
LINE = b"what a guest writes to its disk\n"
DOWNLOAD_BYTES = 300_000
FORKS = 300

# The last command is the one that must not return.
SCRIPT = """
i=0; while [ $i -lt {forks} ]; do /bin/true & wait $!; i=$((i+1)); done; echo "forks $i"
seq 1 20000 | tr 0-9 a-j | sort -r | md5sum | sed 's/^/pipe /'
yes '{line}' | head -c 1048576 >/tmp/mib
cat $(yes /tmp/mib | head -n {mib}) >/dev/vda
sync
echo 3 >/proc/sys/vm/drop_caches
sha256sum </dev/vda | sed 's/^/disk /'
ip addr add 10.0.2.15/24 dev eth0
ip link set eth0 up
wget -q -O - http://10.0.2.2:{port}/file | sha256sum | sed 's/^/download /'
cut -d ' ' -f 1 /proc/modules | sort | tr '\\n' ' ' | sed 's/^/modules /'; echo
dmesg | grep -cE 'BUG|Oops|Call Trace|soft lockup|stall|unstable|Firmware Bug' | sed 's/^/complaints /'
poweroff -f
"""


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


def expect(console, *wanted):
    for text in wanted:
        if text.encode() not in console:
            raise Failure(f"the console lacks {text!r}; it ends with:\n{console[-3000:].decode('utf-8', 'replace')}")


def pipe_sum():
    lines = sorted((str(i).translate(str.maketrans("0123456789", "abcdefghij")) for i in range(1, 20001)), reverse=True)
    return hashlib.md5("".join(line + "\n" for line in lines).encode()).hexdigest()


def fetch(dejavm, folder, port, mib):
    script = dejavm.path("script")
    with open(script, "w") as out:
        out.write(SCRIPT.format(forks=FORKS, line=LINE.decode().strip(), mib=mib, port=port))
    linux_guest.fetch(folder, *MODULES, "--script", script)


def boot(dejavm, folder, number, mib):
    content = os.urandom(DOWNLOAD_BYTES)
    server = serve_file(content)
    fetch(dejavm, folder, server.server_port, mib)
    disk, trace = dejavm.path("disk"), dejavm.path(f"boot{number}.dvm")
    with open(disk, "wb") as out:
        out.truncate(mib << 20)
    console, err, _ = dejavm.run(
        "record", "--engine", "emu", "--initrd", os.path.join(folder, "initrd.img"), "--append", APPEND, "--timeout", 600, "--disk", disk,
        "--net", "user", "-o", trace, os.path.join(folder, "vmlinuz"), timeout=1200)
    server.shutdown()
    written = hashlib.sha256((LINE * ((1 << 20) // len(LINE) + 1))[:1 << 20] * mib).hexdigest()
    expect(console, f"forks {FORKS}", f"pipe {pipe_sum()}", f"disk {written}", f"download {hashlib.sha256(content).hexdigest()}",
           "virtio_blk", "complaints 0")
    if "guest ended: power off" not in err or "replayed exactly" not in err:
        raise Failure(f"record said:\n{err}")
    os.unlink(disk)
    out, _, _ = dejavm.run("verify", trace, timeout=1200)
    replayed, _, _ = dejavm.run("replay", trace, timeout=1200)
    if b"exact" not in out or replayed != console:
        raise Failure(f"verify: {out!r}; the replay printed {len(replayed)} bytes, the recording {len(console)}")
    size = os.path.getsize(trace)
    os.unlink(trace)
    return f"{out.decode().split(': ', 2)[2].split(';')[0]}; trace {size >> 20} MiB"


def main():
    binary, folder = sys.argv[1:3]
    boots, mib = (int(value) for value in (sys.argv[3:] + ["1", "64"][len(sys.argv) - 3:]))
    dejavm = Dejavm(binary, folder)
    try:
        linux_guest.fetch(folder)
        for number in range(boots):
            started = time.time()
            print(f"boot {number + 1}: {boot(dejavm, folder, number, mib)} ({time.time() - started:.1f} s)", flush=True)
    except linux_guest.Unavailable as reason:
        print(f"skipped: {reason}")
        sys.exit(linux_guest.SKIPPED)
    except Failure as failure:
        print(f"FAILED: {failure}", file=sys.stderr)
        sys.exit(1)
    finally:
        dejavm.close()


main()
