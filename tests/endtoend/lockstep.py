"""Both stages of the emulator execute a recording alike."""

from dejavm import Failure, main


def test(dejavm, arguments):
    trace = dejavm.path("lockstep.dvm")
    recorded, _, _ = dejavm.run("record", "-o", trace, "--engine", "emu", dejavm.guest("preempt"))
    said, _, _ = dejavm.run("verify", "--lockstep", trace)
    if b"both stages of the emulator agree" not in said:
        raise Failure(f"verify --lockstep said {said!r}")
    return "both stages agree"


main(test)
