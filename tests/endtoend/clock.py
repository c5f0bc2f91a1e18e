"""With a virtual clock, two recordings of a guest are the same event for event, however busy the host is; with the host's they are not."""

import subprocess

from dejavm import Failure, main


def events(dejavm, guest, number, *options, stdin=subprocess.DEVNULL):
    trace = dejavm.path(f"{guest}-{number}.dvm")
    dejavm.run("record", "--engine", "emu", "-o", trace, *options, dejavm.guest(guest), timeout=300, stdin=stdin)
    return dejavm.run("dump", trace)[0]


def typed_from_a_file(dejavm):
    """More than fits into any buffer on the way."""
    text = dejavm.path("typed")
    with open(text, "w") as out:
        out.write("".join(f"line number {i} of the input\n" for i in range(500)) + "quit\n")
    dumps = []
    for i in range(2):
        with open(text, "rb") as file:
            dumps.append(events(dejavm, "echo", f"typed-{i}", "--clock", "virtual", stdin=file))
    if dumps[0] != dumps[1]:
        raise Failure("echo: two recordings with the same input differ")
    replayed = dejavm.run("replay", dejavm.path("echo-typed-0.dvm"))[0]
    if b"line number 499 of the input" not in replayed:
        raise Failure(f"echo: the input did not arrive: {replayed[-300:]!r}")
    return f"echo {dumps[0].count(10)} events"


def test(dejavm, arguments):
    seen = []
    for guest in ("hello", "hello32", "paging", "preempt"):
        for machine in ("pc", "minimal"):
            options = ("--clock", "virtual", "--machine", machine)
            dumps = [events(dejavm, guest, f"{machine}-{i}", *options) for i in range(2)]
            if dumps[0] != dumps[1]:
                raise Failure(f"{guest} on machine {machine}: two recordings with a virtual clock differ")
        seen.append(f"{guest} {dumps[0].count(10)} events")
    seen.append(typed_from_a_file(dejavm))
    live = [events(dejavm, "preempt", f"live-{i}") for i in range(2)]
    if live[0] == live[1]:
        raise Failure("two recordings of preempt with the host's clock are the same: nothing was proved")
    _, err, _ = dejavm.run("record", "--engine", "kvm", "--clock", "virtual", dejavm.guest("hello"), status=2)
    if "--engine emu" not in err:
        raise Failure(f"--clock virtual under kvm: {err}")
    return "the same twice: " + ", ".join(seen)


main(test)
