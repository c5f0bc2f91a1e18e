#!/usr/bin/env python3
"""
dejavm-bench's loops do what their names say: the steps of one iteration are those that the code has, in both stages of the emulator. How
fast they are is no test.

usage: bench_test.py DEJAVM_BENCH
"""
import json
import subprocess
import sys

# Thousandths of a step per iteration; what a loop does once, and its end, are less than 1 in a run of many iterations.
STEPS = {
    "page_fault": 3 + 1 + 2,  # the delivery; the handler's three instructions; DEC, JNZ; the load itself makes no step
    "interrupt": 4,           # INT, IRETQ, DEC, JNZ
    "syscall": 9,             # MOV, MOV, SYSCALL; CMP, JE, SYSRETQ; MOV, DEC, JNZ
    "self_modifying": 5,
    "avx2": 10,
}


def run(bench, *arguments):
    return subprocess.run([bench, *arguments], capture_output=True, text=True, timeout=250)


def main():
    bench = sys.argv[1]
    names = [line.split()[0] for line in run(bench, "--list").stdout.splitlines()]
    for name, steps in STEPS.items():
        assert name in names, (name, names)
        result = run(bench, "--runs", "1", "--json", "--loop", name)
        assert result.returncode == 0, (name, result.stderr)
        (loop,) = json.loads(result.stdout)["loops"]
        assert abs(loop["milli_steps_per_iteration"] - 1000 * steps) <= 1, (name, loop)
        assert loop["stage1_steps_per_second"] > 0 and loop["stage2_steps_per_second"] > 0, loop
    for arguments, status, said in ((["--loop", "nosuch"], 2, "there is no such loop"), (["linux", "/nosuch"], 1, "/nosuch/vmlinux"),
                                    (["growth", "--only", "x"], 2, "none of length, events, ram")):
        result = run(bench, *arguments)
        assert result.returncode == status and said in result.stderr, (arguments, result)


main()
