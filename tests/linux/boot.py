"""
An unmodified Debian kernel, in the emulator: it boots to user space, runs a script or a shell, and ends; the recording seals,
verifies, and replays the same console without kernel and initrd.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../endtoend"))
import linux_guest  # noqa: E402
from dejavm import Dejavm, Failure  # noqa: E402

APPEND = "console=ttyS0 panic=-1 reboot=t cryptomgr.notests"
ZEROS = 3_000_000

SCRIPT = f"""
uname -rm
date +now=%s
head -c {ZEROS} /dev/zero | sha256sum
seq 1 2000 | awk '{{ s += $1 * $1 }} END {{ printf "sum=%.0f\\n", s }}'
i=0; while [ $i -lt 40 ]; do /bin/true; i=$((i+1)); done; echo forks=$i
echo emit | tr a-z A-Z | rev
usleep 300000
cat /proc/interrupts
"""


def expect(console, *wanted):
    for text in wanted:
        if text.encode() not in console:
            raise Failure(f"the console lacks {text!r}; it ends with:\n{console[-3000:].decode('utf-8', 'replace')}")


def expect_clean(console):
    """Nothing that the kernel prints when the machine is not what it takes it for."""
    for text in (b"unchecked MSR", b"Call Trace", b"Firmware Bug", b"BUG:", b"Oops", b"unstable", b"soft lockup", b"TSC doesn't"):
        if text in console:
            at = console.index(text)
            raise Failure(f"the kernel complains:\n{console[max(0, at - 300):at + 600].decode('utf-8', 'replace')}")


def same_on_replay(dejavm, trace, console):
    out, err, _ = dejavm.run("verify", trace, timeout=300)
    if b"exact" not in out:
        raise Failure(f"verify: {out!r} {err}")
    replayed, _, _ = dejavm.run("replay", trace, timeout=300)
    if replayed != console:
        raise Failure(f"the replay printed {len(replayed)} bytes, the recording {len(console)}")


def record(dejavm, kernel, initrd, trace, *options):
    return dejavm.run("record", "--initrd", initrd, "--append", APPEND, "--timeout", 240, "-o", trace, *options, kernel, timeout=500)


def script_runs(dejavm, folder):
    """The workload's results are right, guest time is host time, and the trace needs none of the files it was made from."""
    script = dejavm.path("script")
    with open(script, "w") as out:
        out.write(SCRIPT)
    linux_guest.fetch(folder, "--script", script)
    kernel, initrd = dejavm.path("vmlinuz"), dejavm.path("initrd.img")
    for path in (kernel, initrd):
        shutil.copy(os.path.join(folder, os.path.basename(path)), path)
    started = time.time()
    console, err, _ = record(dejavm, kernel, initrd, dejavm.path("boot.dvm"))  # the engine is auto's choice
    ended = time.time()
    expect(console, "x86_64", hashlib.sha256(bytes(ZEROS)).hexdigest(), "sum=2668667000", "forks=40", "TIME",
           "script ended with status 0", "IO-APIC", "reboot: machine restart")
    expect_clean(console)
    now = int(re.search(rb"now=(\d+)", console)[1])
    if not started - 2 <= now <= ended + 2:
        raise Failure(f"the guest's clock says {now}, the host's {started:.0f} to {ended:.0f}")
    if "engine: emu, since " not in err or "triple fault" not in err or "replayed exactly" not in err:
        raise Failure(f"record said:\n{err}")
    os.unlink(kernel)
    os.unlink(initrd)
    same_on_replay(dejavm, dejavm.path("boot.dvm"), console)
    return "bzImage: " + re.search(r"replayed exactly, ([0-9,]+ steps)", err)[1]


def shell_answers(dejavm, folder):
    """An interactive shell over the serial line; the kernel is the uncompressed one, by its PVH entry."""
    linux_guest.fetch(folder, "--vmlinux")
    trace = dejavm.path("shell.dvm")
    command = [dejavm.binary, "record", "--engine", "emu", "--initrd", os.path.join(folder, "initrd.img"), "--append",
               APPEND + " quiet", "--timeout", "240", "--no-seal", "-o", trace, os.path.join(folder, "vmlinux")]
    console = b""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as guest:
        for typed in (b"echo answer=$((6*7))\n", b"exit\n"):
            prompts = console.count(b"guest# ")
            while console.count(b"guest# ") == prompts:
                part = os.read(guest.stdout.fileno(), 4096)
                if not part:
                    raise Failure(f"no prompt: {console[-2000:]!r} {guest.stderr.read().decode()}")
                console += part
            guest.stdin.write(typed)
            guest.stdin.flush()
        rest, err = guest.communicate(timeout=300)
    console += rest
    expect(console, "answer=42")
    expect_clean(console)
    if b"triple fault" not in err:
        raise Failure(f"record said:\n{err.decode()}")
    same_on_replay(dejavm, trace, console)
    if dejavm.json("info", trace)["recording"]["guest_format"] != "PVH":
        raise Failure("vmlinux was not loaded by its PVH note")
    return "vmlinux: shell answered"


def bad_files_are_refused(dejavm, folder):
    kernel = os.path.join(folder, "vmlinuz")
    cut = dejavm.path("cut")
    with open(kernel, "rb") as whole, open(cut, "wb") as out:
        out.write(whole.read(5_000_000))
    _, err, _ = dejavm.run("record", "--engine", "emu", "-o", dejavm.path("cut.dvm"), cut, status=1)
    if "cut short" not in err:
        raise Failure(f"a cut kernel: {err}")
    _, err, _ = dejavm.run("record", "--engine", "emu", "-m", "16M", "-o", dejavm.path("small.dvm"), kernel, status=1)
    if "MiB of RAM" not in err:
        raise Failure(f"a small guest: {err}")
    _, err, _ = dejavm.run("record", "--engine", "emu", "--initrd", kernel, "-m", "64M", "-o", dejavm.path("full.dvm"), kernel,
                           status=1)
    if "no room for the initrd" not in err:
        raise Failure(f"an initrd that does not fit: {err}")
    return "bad files are refused"


def main():
    binary, folder = sys.argv[1:]
    dejavm = Dejavm(binary, folder)
    try:
        linux_guest.fetch(folder)
        for test in (bad_files_are_refused, script_runs, shell_answers):
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
