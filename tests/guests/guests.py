"""Runs the example guests and the hostile one with run_guest, and checks what they print and how they end."""

import argparse
import bisect
import pathlib
import re
import subprocess
import sys

HERE = pathlib.Path(__file__).parent
SKIP = 77


class Failure(Exception):
    pass


class Skip(Exception):
    pass


class Runner:
    def __init__(self, engine, build):
        self.engine = engine
        self.build = pathlib.Path(build)

    def image(self, name):
        return self.build / ("tests" if name == "hostile" else "examples") / name

    def run(self, name, command_line="", timeout=20, **options):
        """(what the guest printed, how it ended)"""
        command = [self.build / "tests" / "run_guest", "--engine", self.engine, "--timeout", str(timeout)]
        for option, value in options.items():
            command += [f"--{option}", value]
        command += [self.image(name), command_line]
        # run_guest's own timeout must do; this one only finds it hanging.
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=timeout + 20, check=False)
        except subprocess.TimeoutExpired as e:
            raise Failure(f"{name} {command_line}: run_guest hangs") from e
        last = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else ""
        if done.returncode == SKIP:
            raise Skip(last)
        if done.returncode not in (0, 1):
            raise Failure(f"{name} {command_line}: run_guest ended with status {done.returncode}: {done.stderr[-2000:]}")
        return done.stdout, last


def expect(what, got, wanted):
    if got != wanted:
        raise Failure(f"{what}: got\n{got}\ninstead of\n{wanted}")


def expect_match(what, got, pattern):
    match = re.fullmatch(pattern, got)
    if not match:
        raise Failure(f"{what}: got\n{got}\nwhich does not match\n{pattern}")
    return match


# ---- examples ----


def hello(r):
    printed, end = r.run("hello", "exit=7 and more")
    expect("hello", printed, 'Hello from long mode!\ncommand line: "exit=7 and more"\n')
    expect("hello's end", end, "end: exit 7")
    expect("hello's default status", r.run("hello")[1], "end: exit 0")


def hello32(r):
    printed, end = r.run("hello32", "exit=3", initrd="INITRD of 18 bytes")
    expect(
        "hello32",
        printed,
        'Hello from protected mode!\ncommand line: "exit=3"\n'
        "memory: 0000000000000000..000000000009fbff type 1\n"
        "memory: 000000000009fc00..00000000000fffff type 2\n"
        "memory: 0000000000100000..0000000003ffffff type 1\n"
        'module: 3fff000..3fff011 "initrd", starts with "INIT"\n',
    )
    expect("hello32's end", end, "end: exit 3")


def paging(r):
    printed, end = r.run("paging")
    expect("paging", printed, (HERE / "paging.expected").read_text())
    expect("paging's end", end, "end: exit 0")


def preempt(r):
    tasks = ["registers", "memory", "sse", "nothing", "string", "recursion"]
    counts = "".join(rf"{t} +preempted 4 times, \d+ system calls, last at 0x\w+\n" for t in tasks)
    pattern = (
        r"6 tasks, 24 preemptions at 1000 Hz\n6: \w{16}\n12: \w{16}\n18: \w{16}\n"
        + counts
        + r"checksum (\w{16}) after 24 preemptions\n"
    )
    sums = set()
    for _ in range(4):
        printed, end = r.run("preempt")
        sums.add(expect_match("preempt", printed, pattern).group(1))
        expect("preempt's end", end, "end: exit 0")
    if len(sums) == 1:
        raise Failure("preempt: the checksum does not depend on where the interrupts come")
    for task in tasks:  # each alone
        printed, end = r.run("preempt", f"tasks={task} preemptions=4 rate=2000")
        expect(f"preempt tasks={task}", (printed.count("preempted 4 times"), end), (1, "end: exit 0"))


def function_names(image):
    """A function from address to symbol. Only symbols with a size: those of the linker script have none."""
    lines = subprocess.run(["nm", "-n", "-S", image], capture_output=True, text=True, check=True).stdout.splitlines()
    fields = [line.split() for line in lines]
    symbols = [(int(f[0], 16), f[3]) for f in fields if len(f) == 4 and f[2] in "tT"]
    addresses = [a for a, _ in symbols]
    return lambda address: symbols[bisect.bisect_right(addresses, address) - 1][1]


def racy(r):
    name_of = function_names(r.image("racy"))
    seen = set()
    traces = 0
    for _ in range(40):
        printed, end = r.run("racy")
        seen.add(end)
        if "PANIC in thread" in printed:
            traces += 1
            names = [name_of(int(a, 16)) for a in re.findall(r"#\d 0x(\w+)", printed)]
            if names[0] not in ("list_take", "list_give") or names[1:] != ["thread_turn", "thread_main"]:
                raise Failure(f"racy: the stack trace is {names}\n{printed}")
        elif end == "end: exit 0":
            expect_match(
                "racy",
                printed,
                r"3 threads share a list of 8 items for 28 ticks at 1000 Hz\n"
                r"all is well after 28 ticks: items were taken \d+ times\n",
            )
        if seen == {"end: exit 0", "end: exit 1"} and traces:
            return
    raise Failure(f"racy: 40 runs ended all alike: {seen}, {traces} panics in threads")


def echo(r):
    text = "hello\nthe quick brown fox jumps over the lazy dog\nquit\n"
    printed, end = r.run("echo", input=text)
    wanted = 'Type something; "quit" ends it.\n'
    for line in text.splitlines()[:-1]:
        wanted += f"> {line}\nyou typed {len(line)} characters: {line}\n"
    expect("echo", printed, wanted + "> quit\nbye\n")
    expect("echo's end", end, "end: exit 0")
    # Without input it sleeps in HLT with interrupts on, for ever.
    expect("echo without input", r.run("echo", timeout=0.3)[1], "end: timeout")


# ---- hostile ----

# How each mode may end. Random ones, in any way that is the guest's own.
ANY = r"end: (exit [01]|shutdown|halted|timeout|reset)|error: .*no RAM.*"
HOSTILE = {
    "ports": r"end: exit 0",
    "mmio": r"end: exit 0",
    "tables": ANY,
    "system": ANY,
    "triple": r"end: shutdown",
    "cr3": r"end: shutdown",
    "stack": r"end: shutdown",
    "ud": r"end: timeout",
    "pf": r"end: timeout",
    "nested": r"end: (shutdown|timeout)",
    "rep-ram": r"end: timeout",
    "rep-mmio": r"end: timeout",
    "rep-port": r"end: timeout",
    "rep-mmio-read": r"end: timeout",
    "rep-port-read": r"end: timeout",
    "x87": ANY,
    "halt": r"end: halted",
    "spin": r"end: timeout",
    "nowhere": r"end: exit 1",
    "not-canonical": r"end: exit 1",
}
RANDOM_MODES = {"ports", "mmio", "tables", "system", "x87"}


def hostile(r):
    for mode, pattern in HOSTILE.items():
        for seed in range(4 if mode in RANDOM_MODES else 1):
            printed, end = r.run("hostile", f"mode={mode} seed={seed} count=300 pointers", timeout=0.4)
            expect_match(f"hostile mode={mode} seed={seed}", end, pattern)
            if not printed.startswith(f"mode {mode}\n"):
                raise Failure(f"hostile mode={mode} did not get that far: {printed}")


GROUPS = {"examples": [hello, hello32, paging, preempt, racy, echo], "hostile": [hostile]}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--engine", choices=["emu", "kvm"], required=True)
    parser.add_argument("--group", choices=list(GROUPS), required=True)
    parser.add_argument("build")
    arguments = parser.parse_args()
    runner = Runner(arguments.engine, arguments.build)
    failed = 0
    for test in GROUPS[arguments.group]:
        try:
            test(runner)
            print(f"ok {test.__name__}")
        except Failure as e:
            failed += 1
            print(f"FAILED {test.__name__}: {e}")
        except Skip as e:
            print(f"skipped: {e}")
            return SKIP
    return 1 if failed else 0


sys.exit(main())
