"""
The machines that a stock kernel finds: APICs, PIC, ACPI or not, time; power off and reboot; two recordings with a virtual clock that
are the same. By default the first case alone; with a third argument, all of them.
"""

import os
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../endtoend"))
import linux_guest  # noqa: E402
from dejavm import Dejavm, Failure  # noqa: E402

APPEND = "console=ttyS0 panic=-1 quiet nokaslr cryptomgr.notests "

# What the kernel has to say of its interrupts and clocks, and what it printed from warnings up.
INIT = """#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
# The kernel measures the TSC a second time for a second or so, before it trusts it.
i=0; while [ $i -lt 30 ] && grep -q early /sys/devices/system/clocksource/clocksource0/current_clocksource; do sleep 1; i=$((i+1)); done
echo "=== interrupts"
cat /proc/interrupts
echo "=== clocks"
cat /sys/devices/system/clocksource/clocksource0/current_clocksource /sys/devices/system/clockevents/clockevent0/current_device
echo "=== messages"
dmesg -r | grep '^<[0-4]>'
echo "=== end"
%s
"""

# What a kernel prints that was told not to use a part of the machine, or finds less: no fault of the machine.
EXPECTED = (
    b"setting ELCR to",
    b"weird, boot CPU (#0) not listed by the BIOS",  # without a local APIC
    b"MPS support code is not built-in",  # acpi=off
    b"Broken PMU hardware detected",
    b"PMU not available due to virtualization",
    b"A valid RSDP was not found",  # --machine minimal
    b"No config space access function found",
)

# name, options of record, words for the kernel, what it ends with, what the console has to have
CASES = (
    ("pc", (), "", "power off", (b"IO-APIC   2-edge      timer", b"tsc\nlapic-deadline\n")),
    ("noapic", (), "noapic", "power off", (b"XT-PIC      timer", b"tsc\nlapic-deadline\n")),
    ("nolapic", (), "nolapic", "power off", (b"XT-PIC      timer", b"tsc\npit\n")),
    ("acpi=off", (), "acpi=off", "halted with interrupts off", (b"XT-PIC      timer", b"tsc\npit\n")),
    ("APIC timer", (), "lapic=notscdeadline", "power off", (b"IO-APIC   2-edge      timer", b"tsc\nlapic\n")),
    ("PM timer", (), "clocksource=acpi_pm", "power off", (b"acpi_pm\nlapic-deadline\n",)),
    ("minimal", ("--machine", "minimal"), "", "halted with interrupts off", (b"XT-PIC      timer", b"tsc\npit\n")),
)


def initramfs(dejavm, folder, last):
    init = dejavm.path("init")
    with open(init, "w") as out:
        out.write(INIT % last)
    os.chmod(init, 0o755)
    linux_guest.fetch(folder, "--init", init)
    os.rename(os.path.join(folder, "initrd.img"), dejavm.path("initrd.img"))


def command(dejavm, folder, trace, options, words):
    return ["record", "--engine", "emu", "--no-seal", "--force", "--timeout", "200", "--initrd", dejavm.path("initrd.img"),
            "--append", APPEND + words, "-o", trace, *options, os.path.join(folder, "vmlinuz")]


def check_messages(console):
    for line in console.partition(b"=== messages")[2].partition(b"=== end")[0].splitlines()[1:]:
        if b"Unable to calibrate against PIT" in line:
            raise HostTooBusy(f"{line!r}")
        if not any(text in line for text in EXPECTED):
            raise Failure(f"the kernel complains: {line!r}")


class HostTooBusy(Failure):
    """The host took the CPU away in the middle of a measurement of 10 ms, and Linux found that out and said so."""


def one(dejavm, folder, case):
    for attempt in range(3):
        try:
            return attempt_one(dejavm, folder, case)
        except HostTooBusy as busy:
            print(f"{case[0]}, again: {busy}", flush=True)
            last = busy
    raise last


def attempt_one(dejavm, folder, case):
    name, options, words, ending, wanted = case
    console, err, _ = dejavm.run(*command(dejavm, folder, dejavm.path("machine.dvm"), options, words), timeout=400)
    console = console.replace(b"\r\n", b"\n")
    for text in wanted:
        if text not in console:
            raise Failure(f"{name}: the console lacks {text!r}:\n{console[-3000:].decode('utf-8', 'replace')}")
    if f"guest ended: {ending}" not in err:
        raise Failure(f"{name}: record said:\n{err}")
    check_messages(console)
    return f"{name}: {ending}"


def reboot(dejavm, folder):
    initramfs(dejavm, folder, "reboot -f")
    _, err, _ = dejavm.run(*command(dejavm, folder, dejavm.path("reboot.dvm"), (), ""), timeout=400)
    if "guest ended: reset" not in err:
        raise Failure(f"reboot: record said:\n{err}")
    return "reboot: reset"


def virtual_clock(dejavm, folder):
    """A minute of sleep takes none of the host's, and the same guest gives the same trace."""
    initramfs(dejavm, folder, "sleep 60; cat /proc/uptime; head -c 32 /dev/urandom | sha256sum; date; poweroff -f")
    dumps = []
    started = time.time()
    for seed in ("7", "7", "8"):
        trace = dejavm.path(f"virtual-{len(dumps)}.dvm")
        dejavm.run(*command(dejavm, folder, trace, ("--clock", "virtual", "--seed", seed), ""), timeout=400)
        dumps.append(dejavm.run("dump", trace, timeout=400)[0])
    if dumps[0] != dumps[1]:
        raise Failure("two recordings with a virtual clock differ")
    if dumps[0] == dumps[2]:
        raise Failure("another seed gives the same recording: nothing was proved")
    return f"virtual clock: {dumps[0].count(10)} events, twice the same ({time.time() - started:.0f} s for three)"


def stopped_for_a_while(dejavm, folder):
    """A recorder that was stopped for longer than a lockup takes: neither an idle nor a busy guest notices."""
    initramfs(dejavm, folder, "echo ready; i=0; while [ $i -lt 400 ]; do i=$((i+1)); usleep 20000; done; "
                              "echo busy; sha256sum /dev/zero & sleep 20; kill $!; dmesg | tail -3; poweroff -f")
    run = [dejavm.binary, *command(dejavm, folder, dejavm.path("stopped.dvm"), (), "")]
    console = b""
    with subprocess.Popen(run, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as guest:
        for text in (b"ready", b"busy"):
            while text not in console:
                part = os.read(guest.stdout.fileno(), 4096)
                if not part:
                    raise Failure(f"the guest ended early: {console[-2000:]!r}")
                console += part
            guest.send_signal(signal.SIGSTOP)
            time.sleep(45)
            guest.send_signal(signal.SIGCONT)
        rest, err = guest.communicate(timeout=300)
    console += rest
    for text in (b"lockup", b"stall", b"unstable", b"Call Trace"):
        if text in console:
            raise Failure(f"the guest noticed: {console[-3000:].decode('utf-8', 'replace')}")
    if b"power off" not in err:
        raise Failure(f"record said:\n{err.decode()}")
    return "stopped for 45 s, twice: not noticed"


def main():
    binary, folder = sys.argv[1:3]
    dejavm = Dejavm(binary, folder)
    try:
        linux_guest.fetch(folder)
        initramfs(dejavm, folder, "poweroff -f")
        tests = [lambda case=case: one(dejavm, folder, case) for case in CASES]
        tests += [lambda test=test: test(dejavm, folder) for test in (reboot, virtual_clock, stopped_for_a_while)]
        for test in tests if len(sys.argv) > 3 else tests[:1]:
            started = time.time()
            print(f"{test()} ({time.time() - started:.1f} s)", flush=True)
    except linux_guest.Unavailable as reason:
        print(f"skipped: {reason}")
        sys.exit(linux_guest.SKIPPED)
    except Failure as failure:
        print(f"FAILED: {failure}", file=sys.stderr)
        sys.exit(1)
    finally:
        dejavm.close()


main()
