"""
A guest that does its worst: the recorder neither crashes nor hangs, --timeout always works, and the trace that is
left opens. Where the guest ended in order, the trace seals too.
"""

import os
import time

from dejavm import Failure, main

TIMEOUT_S = 0.5
# Random or endless ones; the value says whether the replay must be exact.
MODES = {
    "ports": True, "mmio": True, "tables": True, "system": False, "triple": True, "cr3": True, "stack": True,
    "ud": True, "pf": True, "nested": False, "rep-ram": True, "rep-mmio": True, "rep-port": True,
    "rep-mmio-read": True, "rep-port-read": True, "platform": True, "halt": True,
    "spin": True, "x87": True, "deaf": True, "nowhere": True, "not-canonical": True,
}
# "nested" overwrites its own code with exception frames and executes those. Where that makes an IRET with a bad selector, kvm_pvm
# pushes the error code 0 instead of the selector (SDM 2, IRET; tests/ring0/deviations.c), and the recording diverges.
# "system" writes random values to control registers. A KVM that accepts CR4 bits which CPUID hides goes another way than the
# CPU model; such a recording diverges, and says so. That is a deviation of that KVM, not of the guest.


def one(dejavm, engine, guest, mode, exact):
    trace = dejavm.path(f"hostile-{mode}.dvm")
    start = time.time()
    _, err, status = dejavm.run("record", "-o", trace, "--engine", engine, "--timeout", str(TIMEOUT_S), "--serial", "null",
                                "--no-seal", "--append", f"mode={mode} count=300 seed=3" + (" pointers" if engine == "emu" else ""), guest, status=None, timeout=60)
    took = time.time() - start
    if status not in (0, 1) or "guest ended" not in err and status == 0:
        raise Failure(f"{mode}: record gave status {status}: {err[-800:]}")
    if took > 20:
        raise Failure(f"{mode}: --timeout {TIMEOUT_S} took {took:.1f} s")
    dejavm.run("info", trace)
    _, err, status = dejavm.run("verify", trace, status=None, timeout=100)
    allowed = (0,) if exact else (0, 3)
    if status not in allowed:
        raise Failure(f"{mode}: verify gave status {status}: {err[-1500:]}")
    os.unlink(trace)
    return status


def test(dejavm, arguments):
    guest = os.path.join(os.path.dirname(arguments.guests.rstrip("/")), "tests", "hostile")
    results = {mode: one(dejavm, arguments.engine, guest, mode, exact) for mode, exact in MODES.items()}
    diverged = [mode for mode, status in results.items() if status == 3]
    return f"{len(results)} hostile modes under {arguments.engine}: none crashed or hung; diverged: {diverged or 'none'}"


main(test)
