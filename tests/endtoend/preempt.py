"""Preemption at arbitrary instructions: every recording seals, verifies, and replays its own checksum."""

import os
import time

from dejavm import Failure, checksum, main


def one(dejavm, engine, number):
    trace = dejavm.path(f"preempt-{number}.dvm")
    recorded, _, _ = dejavm.run("record", "-o", trace, "--engine", engine, "--force", dejavm.guest("preempt"))
    info = dejavm.json("info", trace)
    if not info["sealed"]:
        raise Failure(f"run {number}: the trace is not sealed")
    dejavm.run("verify", trace)
    replayed, _, _ = dejavm.run("replay", trace)
    if replayed != recorded:
        raise Failure(f"run {number}: replay printed {replayed[-300:]!r}, the recording {recorded[-300:]!r}")
    os.unlink(trace)
    return checksum(recorded)


def test(dejavm, arguments):
    start = time.time()
    sums = [one(dejavm, arguments.engine, i) for i in range(arguments.runs)]
    different = len(set(sums))
    if arguments.runs > 1 and different < 2:
        raise Failure(f"{arguments.runs} recordings all have the checksum {sums[0]}: nothing was proved")
    return (
        f"{arguments.runs} recordings under {arguments.engine}: all sealed, verified and replayed exactly; "
        f"{different} different checksums; {time.time() - start:.1f} s"
    )


main(test)
