"""
A bare-metal driver reads and writes a virtio disk, woken by the device's interrupts: what it sees is what is in the file, which
only changes when it is write-through; the recording seals, and replays without the file.
"""

import os
import random
import struct
import subprocess

from dejavm import Failure, main

SECTORS = 300


def fnv1a(data):
    """Of 64-bit words."""
    value = 0xCBF29CE484222325
    for (word,) in struct.iter_unpack("<Q", data):
        value = (value ^ word) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return value


def expected(name, before, status):
    after = before if status else before[:-512] + b"\x5a" * 512
    return (f"disk {name}: {SECTORS} sectors\nchecksum {fnv1a(before):016x}\nwriting the last sector: status {status}\n"
            f"checksum {fnv1a(after):016x}\nbeyond the end: status 1\n").encode(), after


def one(dejavm, engine, kind, content):
    name = "disk.qcow2" if kind == "qcow2" else "disk.img"
    path, trace = dejavm.path(name), dejavm.path("disk.dvm")
    raw = dejavm.path("disk.img")
    with open(raw, "wb") as out:
        out.write(content)
    if kind == "qcow2":
        subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, path], check=True)
    with open(path, "rb") as file:
        file_before = file.read()
    words = {"copy": "", "qcow2": "", "ro": ",ro", "write-through": ",write-through"}[kind]
    console, _, _ = dejavm.run("record", "--engine", engine, "--force", "--timeout", 100, "--exit-code", "--disk", path + words,
                               "-o", trace, dejavm.guest("disk"), status=1 if kind == "ro" else 0)
    wanted, after = expected(name, content, 1 if kind == "ro" else 0)
    if console != wanted:
        raise Failure(f"{kind}: the guest printed\n{console.decode('utf-8', 'replace')}\ninstead of\n{wanted.decode()}")
    with open(path, "rb") as file:
        if file.read() != (after if kind == "write-through" else file_before):
            raise Failure(f"{kind}: the file is not what it should be")
    os.unlink(path)
    info = dejavm.json("info", trace)
    if not info["sealed"]:
        raise Failure(f"{kind}: the trace is not sealed")
    out, _, _ = dejavm.run("verify", trace)
    if b"exact" not in out:
        raise Failure(f"{kind}: verify: {out!r}")
    replayed, _, _ = dejavm.run("replay", trace)
    if replayed != console:
        raise Failure(f"{kind}: the replay printed {replayed!r}")
    return info["events_by_type"]["dma"]


def test(dejavm, arguments):
    content = random.Random(arguments.seed).randbytes(SECTORS * 512)
    events = [one(dejavm, arguments.engine, kind, content) for kind in ("copy", "write-through", "ro", "qcow2")]
    out, _, _ = dejavm.run("record", "--engine", arguments.engine, "--exit-code", "-o", dejavm.path("none.dvm"),
                           dejavm.guest("disk"), status=2)
    if b"there is no virtio disk" not in out:
        raise Failure(f"without a disk: {out!r}")
    return f"{arguments.engine}: {events[0]} DMA events in a recording"


main(test)
