"""
Debian's kernel with virtio disks (raw, qcow2, read-only, write-through), the virtio console and random numbers: what the guest
reads and writes is right, the files change only where that was asked for, and the trace replays without them.

disks.py DEJAVM FOLDER [MIB]: the size of the first disk, default 4.
"""

import fcntl
import hashlib
import os
import pty
import random
import re
import struct
import subprocess
import sys
import termios
import time
import tty

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../endtoend"))
import linux_guest  # noqa: E402
from dejavm import Dejavm, Failure  # noqa: E402

APPEND = "console=ttyS0 quiet panic=-1 reboot=t cryptomgr.notests mitigations=off nokaslr"
MODULES = [word for name in ("virtio_pci", "virtio_blk", "virtio_console", "virtio_rng") for word in ("--module", name)]

SCRIPT = """
md5sum /dev/vda | sed 's/^/read a /'
dd if=/dev/vdb of=/dev/vda bs=1M seek=1 2>&1 | grep -v copied
sync
echo 3 >/proc/sys/vm/drop_caches
dd if=/dev/vda bs=1M skip=1 count=2 2>/dev/null | md5sum | sed 's/^/written a /'
md5sum /dev/vdd | sed 's/^/read d /'
dd if=/dev/zero of=/dev/vdb bs=512 count=1 2>/dev/null || echo "b is read-only"
cat /sys/block/vdb/ro | sed 's/^/ro /'
mkdir /mnt
mount -t ext4 /dev/vdc /mnt && cat /mnt/hello
echo "written by the guest" >/mnt/from-guest
umount /mnt
cat /sys/block/vda/serial | sed 's/^/serial /'; echo
cat /sys/class/misc/hw_random/rng_current
head -c 100 /dev/hwrng | wc -c | sed 's/^/random /'
grep virtio /proc/interrupts
dmesg | grep -c 'Call Trace' | sed 's/^/traces /'
echo "through hvc0" >/dev/hvc0
"""

SHELL = """
exec setsid sh -c 'exec sh -i </dev/hvc0 >/dev/hvc0 2>&1'
"""


def expect(console, *wanted):
    for text in wanted:
        if text.encode() not in console:
            raise Failure(f"the console lacks {text!r}; it ends with:\n{console[-3000:].decode('utf-8', 'replace')}")


def tool(*arguments):
    environment = dict(os.environ, PATH=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        raise Failure(f"{' '.join(arguments)}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def write_random(path, size, seed):
    """Returns the content."""
    data = random.Random(seed).randbytes(size)
    with open(path, "wb") as out:
        out.write(data)
    return data


def read(path):
    with open(path, "rb") as file:
        return file.read()


def md5(data):
    return hashlib.md5(data).hexdigest()


def own_folder(folder):
    """The downloads of the other tests that have already been made are used."""
    os.makedirs(folder, exist_ok=True)
    others = os.path.join(os.path.dirname(os.path.abspath(folder)), "linux")
    for name in os.listdir(others) if os.path.isdir(others) else []:
        link = os.path.join(folder, name)
        if name.startswith("packages-") and not name.endswith(".part") and not os.path.lexists(link):
            os.symlink(os.path.join(others, name), link)


def fetch(dejavm, folder, text):
    script = dejavm.path("script")
    with open(script, "w") as out:
        out.write(text)
    linux_guest.fetch(folder, *MODULES, "--script", script)


def make_disks(dejavm, mib):
    """a: raw, for writing; b: raw, read-only; c: ext4, written through; d: qcow2, whose content is returned with a's and b's."""
    path = dejavm.path
    content = [write_random(path("a"), mib << 20, 1), write_random(path("b"), 2 << 20, 2), write_random(path("plain"), 1 << 20, 3)]
    tool("qemu-img", "convert", "-f", "raw", "-O", "qcow2", path("plain"), path("d.qcow2"))
    os.mkdir(path("files"))
    with open(path("files/hello"), "w") as out:
        out.write("hello from the host\n")
    with open(path("c"), "wb") as out:
        out.truncate(4 << 20)
    tool("mkfs.ext4", "-q", "-F", "-d", path("files"), path("c"))
    return content


def disks_work(dejavm, folder, mib):
    path = dejavm.path
    fetch(dejavm, folder, SCRIPT)
    a, b, d = make_disks(dejavm, mib)
    qcow2 = read(path("d.qcow2"))
    console, err, _ = dejavm.run(
        "record", "--engine", "emu", "--initrd", os.path.join(folder, "initrd.img"), "--append", APPEND, "--timeout", 400 + 30 * mib,
        "--disk", path("a"), "--disk", path("b") + ",ro", "--disk", path("c") + ",write-through", "--disk", path("d.qcow2"),
        "-o", path("disks.dvm"), os.path.join(folder, "vmlinuz"), timeout=900 + 60 * mib)
    expect(console, f"read a {md5(a)}", f"written a {md5(b)}", f"read d {md5(d)}", "b is read-only", "ro 1", "hello from the host",
           "serial a", "virtio_rng.0", "random 100", "traces 0", "through hvc0", "script ended with status 0")
    if not re.search(rb"PCI-MSI.*virtio.*req", console):
        raise Failure(f"no MSI-X of a disk:\n{console[-3000:].decode()}")
    if read(path("a")) != a or read(path("b")) != b or read(path("d.qcow2")) != qcow2:
        raise Failure("a disk's file has changed that should not")
    tool("e2fsck", "-fn", path("c"))
    if tool("debugfs", "-R", "cat /from-guest", path("c")) != "written by the guest\n":
        raise Failure("what the guest wrote to the write-through disk is not in its file")
    if "replayed exactly" not in err:
        raise Failure(f"record said:\n{err}")
    for name in ("a", "b", "c", "d.qcow2"):
        os.unlink(path(name))
    out, _, _ = dejavm.run("verify", path("disks.dvm"), timeout=600 + 30 * mib)
    replayed, _, _ = dejavm.run("replay", path("disks.dvm"), timeout=600 + 30 * mib)
    if b"exact" not in out or replayed != console:
        raise Failure(f"verify: {out!r}; the replay printed {len(replayed)} bytes, the recording {len(console)}")
    return f"{mib} MiB read and checked"


def set_size(terminal, rows, columns):
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def read_terminal(terminal):
    try:
        return os.read(terminal, 4096)
    except OSError:  # EIO: nobody has the other end any more
        return b""


def console_answers(dejavm, folder, _):
    """A shell on hvc0, which gets what is typed, and has the size of the terminal that standard output is."""
    fetch(dejavm, folder, SHELL)
    trace = dejavm.path("shell.dvm")
    command = [dejavm.binary, "record", "--engine", "emu", "--initrd", os.path.join(folder, "initrd.img"), "--append", APPEND,
               "--console", "virtio", "--timeout", "300", "-o", trace, os.path.join(folder, "vmlinuz")]
    console = b""
    terminal, output = pty.openpty()
    tty.setraw(output)
    set_size(terminal, 43, 132)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.PIPE) as guest:
        os.close(output)
        for typed in (b"stty size\n", b"until stty size | grep '50 100'; do usleep 100000; done\n", b"echo answer=$((6*7))\n",
                      b"exit\n"):
            prompts = console.count(b"guest# ")
            while console.count(b"guest# ") == prompts:
                part = read_terminal(terminal)
                if not part:
                    raise Failure(f"no prompt: {console[-2000:]!r} {guest.stderr.read().decode()}")
                console += part
            if typed.startswith(b"until"):
                set_size(terminal, 50, 100)
            guest.stdin.write(typed)
            guest.stdin.flush()
        while part := read_terminal(terminal):
            console += part
        _, err = guest.communicate(timeout=600)
    os.close(terminal)
    expect(console, "answer=42", "\n43 132", "\n50 100")
    if b"replayed exactly" not in err:
        raise Failure(f"record said:\n{err.decode()}")
    replayed, _, _ = dejavm.run("replay", trace, timeout=600)
    if replayed != console:
        raise Failure("the replay printed something else")
    return "hvc0: shell answered"


def bad_disks_are_refused(dejavm, folder, _):
    odd, empty, cut = dejavm.path("odd"), dejavm.path("empty"), dejavm.path("cut.qcow2")
    write_random(odd, 1000, 1)
    write_random(empty, 0, 1)
    tool("qemu-img", "create", "-q", "-f", "qcow2", "-o", "preallocation=metadata", cut, "8M")
    os.truncate(cut, os.path.getsize(cut) // 2)
    for option, status, message in (
            (odd, 1, "is not a multiple of 512"), (empty, 1, "is empty"), (folder, 1, "is a directory"),
            (dejavm.path("none"), 1, "No such file"), (cut, 1, "a damaged qcow2 image"), ("/dev/zero", 1, "a character device"),
            (",ro", 2, "names no file"), (odd + ",ro,write-through", 2, "is read-only")):
        _, err, _ = dejavm.run("record", "--engine", "emu", "--disk", option, "-o", dejavm.path("bad.dvm"),
                               os.path.join(folder, "vmlinuz"), status=status)
        if message not in err:
            raise Failure(f"--disk {option}: {err}")
        if os.path.exists(dejavm.path("bad.dvm")):
            raise Failure(f"--disk {option} left a trace")
    return "bad disks are refused"


def main():
    binary, folder = sys.argv[1:3]
    mib = int(sys.argv[3]) if len(sys.argv) > 3 else 4
    dejavm = Dejavm(binary, folder)
    try:
        own_folder(folder)
        linux_guest.fetch(folder)
        for test in (bad_disks_are_refused, disks_work, console_answers):
            started = time.time()
            print(f"{test(dejavm, folder, mib)} ({time.time() - started:.1f} s)", flush=True)
    except linux_guest.Unavailable as reason:
        print(f"skipped: {reason}")
        sys.exit(linux_guest.SKIPPED)
    except Failure as failure:
        print(f"FAILED: {failure}", file=sys.stderr)
        sys.exit(1)
    finally:
        dejavm.close()


main()
