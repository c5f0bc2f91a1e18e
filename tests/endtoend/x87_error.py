"""
x87 errors with CR0.NE = 0: the guest waits for IRQ 13, and every recording seals, verifies and replays exactly, in both stages of the
emulator. Under KVM errors are #MF, and a replay repeats that.
"""

import os

from dejavm import Failure, main


def record(dejavm, engine, guest, mode, *options):
    trace = dejavm.path(f"x87-{mode}.dvm")
    recorded, err, _ = dejavm.run("record", "-o", trace, "--force", "--engine", engine, "--timeout", "30", "--append",
                                  f"mode={mode}", *options, guest)
    said, _, _ = dejavm.run("verify", trace)
    replayed, _, _ = dejavm.run("replay", trace)
    if replayed != recorded:
        raise Failure(f"mode={mode}: replay printed {replayed[-300:]!r}, the recording {recorded[-300:]!r}")
    return trace, recorded, err, said


def emu(dejavm, guest):
    questions = 0
    for stages in ("1", "2", "mixed"):
        os.environ["DEJAVM_EMU_STAGES"] = stages
        for board in ("pc", "minimal"):
            trace, recorded, err, _ = record(dejavm, "emu", guest, "irq", "--machine", board)
            if not recorded.endswith(b"108 errors\n") or "debug-exit status 0" not in err:
                raise Failure(f"stages {stages}, {board}: {recorded[-600:]!r} {err[-600:]}")
            said, _, _ = dejavm.run("verify", "--lockstep", trace)
            if b"both stages of the emulator agree" not in said:
                raise Failure(f"verify --lockstep said {said!r}")
            events, _, _ = dejavm.run("dump", trace)
            questions = events.count(b"ignne value 0x0")
            if questions < 108:
                raise Failure(f"{questions} times the recording says that IGNNE# was not asserted")
        # Nothing can end it: the recording ends, at once, as it does at HLT with interrupts off.
        _, _, err, said = record(dejavm, "emu", guest, "deaf")
        if "halted with interrupts off" not in err or b"halted with interrupts off" not in said:
            raise Failure(f"waiting with interrupts off: {err[-600:]} {said!r}")
    del os.environ["DEJAVM_EMU_STAGES"]
    first, second = (record(dejavm, "emu", guest, "irq", "--clock", "virtual", "--seed", "1")[1] for _ in range(2))
    if first != second:
        raise Failure("two recordings by the virtual clock are not the same")
    return f"108 errors by IRQ 13 ({questions} times waited), replayed exactly in both stages, on both boards"


def kvm(dejavm, guest):
    trace, recorded, err, _ = record(dejavm, "kvm", guest, "which")
    if b"reported by #MF" not in recorded:
        raise Failure(f"under KVM the guest said {recorded!r}: {err[-600:]}")
    events, _, _ = dejavm.run("dump", trace)
    if b"ignne" in events:
        raise Failure("the recorder asked for IGNNE# under KVM")
    return "under KVM errors are #MF, and so they are on replay"


def test(dejavm, arguments):
    guest = os.path.join(os.path.dirname(arguments.guests.rstrip("/")), "tests", "x87_error")
    return emu(dejavm, guest) if arguments.engine == "emu" else kvm(dejavm, guest)


main(test)
