#!/usr/bin/env python3
"""
dejavm crash, on recordings of guests that crash: examples/linux-crash (an oops in a module of Debian's kernel, to be followed back to the
write that caused it), and small kernels that end badly, or well.

The commands of docs/linux-crash.md are run as well, and compared with what the document shows: words, functions and source lines, not
numbers and addresses, which are those of another recording.

usage: crash_test.py DEJAVM EXAMPLES_FOLDER LINUX_FOLDER DOCUMENT [HOSTILE_GUEST]: with it, only that a hang is noticed
"""

import json
import os
import re
import subprocess
import sys

here = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(here, "../endtoend"))
sys.path.insert(0, os.path.join(here, "../debug"))
import document_test  # noqa: E402
import gdbtest  # noqa: E402
from dejavm import SKIPPED, Dejavm, Failure  # noqa: E402

BUILD = os.path.join(here, "../../examples/linux-crash/build")
UNAVAILABLE = 69  # build's exit status when apt cannot deliver
HUNG_STEPS = 12_000_000_000
APPEND = "console=ttyS0 reboot=t panic=-1 oops=panic quiet cryptomgr.notests"


def expect(condition, what, report):
    if not condition:
        raise Failure(f"{what}:\n{json.dumps(report, indent=1)[:4000]}")


def symbols(stack):
    return [frame["symbol"] for frame in stack]


def small_guests(dejavm):
    trace = dejavm.path("well.dvm")
    dejavm.run("record", "--engine", "emu", "-o", trace, dejavm.guest("hello"))
    report = dejavm.json("crash", trace)
    expect(report["crash"] == "none", "a guest that ended well", report)
    trace = dejavm.path("status.dvm")
    dejavm.run("record", "--engine", "emu", "--append", "exit=3", "-o", trace, dejavm.guest("hello"), status=None)
    report = dejavm.json("crash", trace)
    expect(report["crash"] == "end" and report["position"] == report["end"], "a guest that ended with status 3", report)
    expect(report["stack"][0]["symbol"].startswith("guest_exit"), "the guest's own symbols", report)
    text, _, _ = dejavm.run("crash", trace)
    expect(b"guest_exit" in text and b"console" in text, "the report in words", text.decode())
    return "small guests"


def hung(dejavm, guest):
    """Ten seconds of the guest's time without an interrupt taken, though they come: that is a crash, of a guest that was up."""
    trace = dejavm.path("hung.dvm")
    for mode in ("spin", "deaf"):  # spin has never taken any
        dejavm.run("record", "--engine", "emu", "--clock", "virtual", "--max-steps", HUNG_STEPS, "--append", f"mode={mode}", "--force",
                   "-o", trace, guest, timeout=600)
        report = dejavm.json("crash", trace, timeout=600)
        if mode == "spin":
            expect(report["crash"] == "none", "a guest that starts slowly", report)
    expect(report["crash"] == "told" and report["text"].startswith("hung:"), "a hung guest", report)
    expect(symbols(report["stack"])[0].startswith(("spin", "deaf")), "where it hangs", report)
    text, _, _ = dejavm.run("info", trace)
    expect(b"hung: for 10 s" in text, "info", text.decode())
    return "hung guest"


def oops(dejavm, folder):
    done = subprocess.run([BUILD, folder], capture_output=True, text=True)
    if done.returncode == UNAVAILABLE:
        print(f"skipped: {done.stderr.strip()}")
        sys.exit(SKIPPED)
    if done.returncode:
        raise Failure(f"build: {done.stderr}")
    trace = dejavm.path("crash.dvm")
    console, err, _ = dejavm.run("record", "--engine", "emu", "--initrd", os.path.join(folder, "initrd.img"), "--append", APPEND,
                                 "--timeout", 240, "-o", trace, os.path.join(folder, "vmlinuz"), timeout=500)
    if b"still running" in console or "replayed exactly" not in err:
        raise Failure(f"the guest did not crash, or the trace does not replay:\n{console[-3000:]!r}\n{err}")
    info = dejavm.json("info", trace)
    expect(info["crash"] and info["crash"]["text"].startswith("general protection fault"), "info", info["crash"])
    report = dejavm.json("crash", trace)
    # The kernel's own words say where; we were there before they were printed.
    rip = re.search(rb"RIP: 0010:(\w+\+0x[0-9a-f]+)/", console)[1].decode()
    expect(report["crash"] == "exception" and report["vector"] == 13, "what it was", report)
    expect(report["position"] < report["told"] < report["end"], "positions", report)
    expect(symbols(report["stack"])[0] == f"{rip} [reminder]", f"the instruction at {rip}", report)
    expect(symbols(report["stack"])[1].startswith("process_one_work+"), "its caller", report)
    expect(report["task"] and report["task"]["name"].startswith("kworker/"), "the task", report)
    pointer = report["pointer"]
    expect(pointer and pointer["loaded"] and pointer["value"] == int.from_bytes(b"or the n", "little"), "the pointer", report)
    write = pointer["writes"][0]
    expect(write["new"] == pointer["value"] and not write["by_device"], "its last write", report)
    expect(write["task"]["name"] == "sh" and any("[reminder]" in s for s in symbols(write["stack"])), "who wrote it", report)
    early = pointer["writes"][1]
    expect(early["new"] == write["old"] and early["position"] < write["position"], "the write before", report)
    text, _, _ = dejavm.run("crash", trace)
    for wanted in (b"or the n", b"general protection fault", b"bell [reminder]", b"Linux version 6."):
        expect(wanted in text, f"the report in words has no {wanted!r}", text.decode())
    return f"oops: {rip}", trace


def module_path(line):
    """The module is built in another folder here."""
    return re.sub(r"/\S*?/module/reminder", "/module/reminder", line)


def document(dejavm, trace, folder, path):
    """The commands do what the document shows."""
    with open(path) as text:
        steps = [step for block in document_test.console_blocks(text.read()) for step in block]
    shown = next(output for prompt, command, output in steps if command.startswith("dejavm crash"))
    printed, _, _ = dejavm.run("crash", trace)
    problem = document_test.differs(shown, printed.decode().splitlines())
    if problem:
        raise Failure(f"{path}: dejavm crash: {problem}")
    commands = [(command, output) for prompt, command, output in steps if prompt == "(gdb)"]
    gdbtest.set_up(dejavm.binary, dejavm.guests)
    results = gdbtest.gdb(trace, *(command for command, _ in commands), options=["--symbols", os.path.join(folder, "reminder.ko")])
    for (command, expected), actual in zip(commands, results):
        problem = document_test.differs(map(module_path, expected), map(module_path, actual.splitlines()))
        if problem:
            raise Failure(f"{path}: {command}: {problem}")
    return f"{len(commands)} commands of the document"


def main():
    binary, guests, folder, path = sys.argv[1:5]
    dejavm = Dejavm(binary, guests)
    try:
        if len(sys.argv) > 5:
            print(hung(dejavm, sys.argv[5]), flush=True)
            return
        print(small_guests(dejavm), flush=True)
        seen, trace = oops(dejavm, folder)
        print(seen, flush=True)
        print(document(dejavm, trace, folder, path), flush=True)
    except Failure as failure:
        print(f"FAILED: {failure}", file=sys.stderr)
        sys.exit(1)
    finally:
        dejavm.close()


main()
