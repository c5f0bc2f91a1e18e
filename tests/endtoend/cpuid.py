"""What CPUID shows a guest is in its trace: a guest that prints it replays exactly, whatever this host's KVM shows."""

from dejavm import Failure, main


def test(dejavm, arguments):
    trace = dejavm.path("cpuid.dvm")
    recorded, _, _ = dejavm.run("record", "-o", trace, "--engine", arguments.engine, "--append", "cpuid=1",
                                dejavm.guest("hello"))
    if recorded.count(b"cpuid") < 8:
        raise Failure(f"the guest printed no CPUID: {recorded!r}")
    dejavm.run("verify", trace)
    replayed, _, _ = dejavm.run("replay", trace)
    if replayed != recorded:
        raise Failure(f"replay printed {replayed!r}, the recording {recorded!r}")
    return f"CPUID under {arguments.engine}: the replay shows the guest the same"


main(test)
