#!/usr/bin/env python3
"""Runs the commands of docs/debugging.md and compares what they print with what the document shows.

usage: document_test.py DEJAVM EXAMPLES_FOLDER DOCUMENT

The document is about one recording of racy, the test makes its own: numbers and addresses are not compared, words, functions and
source lines are. A line `...` in the document stands for any lines. The panic has to be of the same kind, and its cause in the same
function: the test records until they are.
"""
import os
import re
import shutil
import sys
import tempfile

import gdbtest

ATTEMPTS = 60


def console_blocks(document):
    """The blocks ```console of the document, as lists of (prompt, command, output lines)."""
    blocks = []
    for text in re.findall(r"^```console\n(.*?)^```$", document, re.M | re.S):
        steps = []
        for line in text.splitlines():
            found = re.match(r"(\$|\(gdb\)) (.*)", line)
            if found:
                steps.append((found.group(1), found.group(2), []))
            else:
                steps[-1][2].append(line)
        blocks.append(steps)
    return blocks


def comparable(line):
    """What is the same in every recording: words, and the numbers of source lines."""
    line = re.sub(r"/\S*?/examples/", "/examples/", line)
    line = re.sub(r" at /examples/\S+\.S:\d+$", "", line)  # assembly has lines in a debug build only
    # The interrupt may come at any instruction of work(), a loop of three lines.
    line = re.sub(r"list\.user\.c:2[123]$", "list.user.c:(work)", line)
    line = re.sub(r"(thread_turn .*list\.user\.c:)\d+$", r"\1(call)", line)  # there are two of each
    line = re.sub(r"^2[123]\s.*", "(work)", line)
    line = re.sub(r"0x[0-9a-f]+ in ", "", line)
    line = re.sub(r"\b[0-9a-f]{16,32}\b", "#", line)  # digests
    line = re.sub(r"\b([KMGT]i)?B\b", "bytes", line)
    line = re.sub(r"0x[0-9a-f]+", "0x#", line)
    line = re.sub(r"(?<!\.c:)(?<![\w.])\d[\d,_]*(\.\d+)?", "#", line) if not re.match(r"\d+\s{2,}|\d+\t", line) else line
    line = re.sub(r" <\w+(\+#|\+\d+)?>", "", line)
    return re.sub(r"\s+", " ", line).strip()


def differs(expected, actual):
    """None, or what differs first."""
    expected = [line for line in map(comparable, expected) if line]
    actual = [line for line in map(comparable, actual) if line]
    at = 0
    skipping = False
    for line in expected:
        if line == "...":
            skipping = True
            continue
        while skipping and at < len(actual) and actual[at] != line:
            at += 1
        skipping = False
        if at == len(actual) or actual[at] != line:
            return f"expected {line!r}, got {actual[at] if at < len(actual) else 'nothing'!r}"
        at += 1
    return None if at == len(actual) or skipping else f"more than the document says: {actual[at]!r}"


def panic_of(text):
    found = gdbtest.PANIC.search(text)
    return found.groups() if found else None


def translate(command, theirs, ours):
    """The document's item is another one in our recording."""
    return command.replace(f"items[{theirs[1]}]", f"items[{ours[1]}]")


class Unlike(Exception):
    """This recording is not like the document's: after so many commands, and why."""


def check(blocks, trace, printed):
    theirs = next(panic_of("\n".join(output)) for steps in blocks for _, _, output in steps if panic_of("\n".join(output)))
    ours = panic_of(printed)
    if not ours:
        raise Unlike(0, "another panic")
    commands = [(command, output) for steps in blocks for prompt, command, output in steps if prompt == "(gdb)"]
    results = gdbtest.gdb(os.path.basename(trace), *(translate(command, theirs, ours) for command, _ in commands), options=["--at", "crash"], cwd=os.path.dirname(trace))
    for number, ((command, expected), actual) in enumerate(zip(commands, results)):
        problem = differs(expected, actual.splitlines())
        if problem:
            raise Unlike(number, f"(gdb) {command}: {problem}")
    return len(commands)


def main():
    gdbtest.set_up(sys.argv[1], sys.argv[2])
    with open(sys.argv[3]) as file:
        blocks = console_blocks(file.read())
    folder = tempfile.mkdtemp(prefix="dejavm-document-test.")
    best = (0, "no panic")
    try:
        trace = os.path.join(folder, "racy.dvm")
        for attempt in range(ATTEMPTS):
            printed = gdbtest.record(trace, "racy")
            if not panic_of(printed):
                continue
            try:
                count = check(blocks, trace, printed)
                print(f"{count} commands do what the document shows; {attempt + 1} recordings made")
                return 0
            except Unlike as problem:
                best = max(best, problem.args, key=lambda b: (b[0], b[1] != "no panic"))
        print(f"no recording behaves as the document shows; the most alike after {best[0]} commands: {best[1]}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main())
