#!/usr/bin/env python3
"""Debugs the example guests with the real gdb while they are recorded, as a user does, under both engines.

usage: live_test.py DEJAVM EXAMPLES_FOLDER [unittest arguments, e.g. the name of a class]
"""
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "debug"))
import document_test
import gdbtest
from gdbtest import Case, Process, Server, arguments_of, parts_of, position, run

NO_MORE_HISTORY = "No more reverse-execution history."
# Of preempt: longer than any test. Its kernel gets most of the time, which KVMs without hardware support execute slowly: there is little to replay.
LONG = ("--append", "preemptions=1000000 rate=20000")


def guest(name):
    return os.path.join(gdbtest.EXAMPLES, name)


class Live(Case):
    engine = None

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        if cls.engine is None:
            raise unittest.SkipTest("an engine is needed")
        if cls.engine == "kvm" and not os.path.exists("/dev/kvm"):
            raise unittest.SkipTest("there is no /dev/kvm")

    def debug(self, name, *commands, options=()):
        """`dejavm debug --live`: the output of each command, all output, and the trace, which must be exact."""
        trace = self.path(f"{self.id().split('.')[-1]}.dvm")
        done = subprocess.run([gdbtest.DEJAVM, "debug", "--live", "--engine", self.engine, "-f", "-o", trace, *options, guest(name),
                               "--", "-nx", "-batch", *arguments_of(commands)], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=gdbtest.TIMEOUT)
        text = done.stdout.decode("utf-8", "replace")
        self.assertEqual(done.returncode, 0, text)
        self.check(trace, text)
        return parts_of(text, len(commands)), text, trace

    def check(self, trace, report):
        """Sealed at the end, and exact."""
        self.matches(report, r"sealed in .*: replayed exactly", re.escape(trace))
        self.matches(run("verify", trace).stdout.decode(), r": exact: ")

    def serve(self, name, *options):
        self.trace = self.path(f"{self.id().split('.')[-1]}.dvm")
        server = Server("--live", "--engine", self.engine, "-f", "-o", self.trace, *options, guest(name))
        self.addCleanup(server.end)
        return server

    def attach(self, server):
        """A gdb that one talks to."""
        with open(self.path("commands.gdb"), "wb") as file:
            file.write(run("gdbserver", "--print-commands").stdout)
        client = Gdb("gdb", "-nx", "-q", "-ex", "set pagination off", "-ex", "set confirm off", "-x", self.path("commands.gdb"), "-ex",
                     f"target remote {server.address}")
        self.addCleanup(client.end)
        client.wait_for(r"\(gdb\) ")
        return client

    def ended(self, server):
        """The server's last words."""
        text = server.wait_for(r"sealed in [^\n]*\n")
        self.assertEqual(server.process.wait(gdbtest.TIMEOUT), 0)
        self.check(self.trace, text)
        return text


class Gdb(Process):
    asked = 0

    def ask(self, command):
        self.asked += 1
        self.say(command)
        self.say(f"echo @{self.asked}\\n")
        return self.wait_for(f"@{self.asked}\n")

    def interrupt_after(self, command):
        """Runs, and presses Ctrl-C as soon as gdb waits: the packets that gdb sends say when."""
        self.ask("set debug remote 1")
        self.say(command)
        self.wait_for(r"Sending packet: \$(vCont;c|bc|c)[^\n]*\n")
        self.interrupt()
        text = self.wait_for(r"(Program received signal SIGINT|No more reverse-execution history|signal SIGTRAP)")
        self.ask("set debug remote 0")
        return text


def register(text, name):
    return int(re.search(rf"^{name} +(0x[0-9a-f]+)", text, re.M).group(1), 16)


class Sessions:
    """What holds under every engine."""

    def test_back_into_history_and_forward_past_the_present(self):
        look = "info registers rip rsp rax rbx"
        parts, text, trace = self.debug(
            "racy", "break list_take", "continue", "continue", "when", look, "reverse-stepi", "when", look, "stepi", "when", look,
            "reverse-continue", "when", look, "goto 50%", "when", look, "goto end", "stepi", "stepi", "when", look, "delete", "continue")
        self.matches(parts[2], r"Breakpoint 1, list_take \(")
        present = position(parts[3])
        self.assertEqual(position(parts[6]), present - 1)
        self.assertEqual(position(parts[9]), present)
        self.assertEqual(parts[4], parts[10])
        self.matches(parts[11], r"Breakpoint 1, list_take \(")
        self.assertLess(position(parts[12]), present)
        self.assertEqual(position(parts[15]), present // 2)
        self.assertEqual(position(parts[20]), present + 2)
        self.assertIn(NO_MORE_HISTORY, parts[23])
        self.matches(text, r"The guest ended: debug-exit status [01], at 0x", r"(all is well after 28 ticks|PANIC)")
        for when, seen in ((3, 4), (6, 7), (9, 10), (12, 13), (15, 16), (20, 21)):
            replayed = json.loads(run("state", trace, "--json", "--at", position(parts[when])).stdout)["registers"]
            for name in ("rip", "rsp", "rax", "rbx"):
                self.assertEqual(register(parts[seen], name), int(str(replayed[name]), 0), (when, name))

    def test_watchpoints_in_both_directions(self):
        parts, _, _ = self.debug("racy", "break list_take", "continue", "delete", "watch free_items.head", "continue", "when",
                                 "reverse-continue", "when", "continue", "when", "continue", "when", "monitor info")
        old, new = re.search(r"Old value = (.*)\nNew value = (.*)\n", parts[4]).groups()
        self.assertIn(f"Old value = {new}\nNew value = {old}\n", parts[6])
        self.assertIn(f"Old value = {old}\nNew value = {new}\n", parts[8])
        self.assertEqual(position(parts[7]), position(parts[5]) - 1)
        self.assertEqual(position(parts[9]), position(parts[5]))
        self.assertGreater(position(parts[11]), position(parts[5]))
        self.matches(parts[12], rf"recorded under {self.engine}", r"the present of a guest that is being recorded" +
                     (", moved from KVM to the emulator" if self.engine == "kvm" else ""))

    def test_caught_interrupts_and_the_console(self):
        parts, _, _ = self.debug("racy", "monitor catch irq 0x20", "continue", "stepi", "reverse-stepi", "reverse-stepi", "monitor console",
                                 'goto console "threads"', "monitor catch off", "goto end", "stepi", "when")
        self.matches(parts[1], r"caught: interrupt 0x20, happened")
        self.matches(parts[5], r"threads share a list of 8 items")
        self.matches(parts[6], r"serial_write")

    def test_nothing_can_be_changed(self):
        parts, _, _ = self.debug("racy", "print $rax = 1", "print *(long *)0x100000 = 0")
        self.matches(parts[0], r"this guest is being recorded: registers can be read, but not changed")
        self.matches(parts[1], r"Cannot access memory at address 0x100000")

    def test_interrupted_while_it_runs(self):
        server = self.serve("preempt", *LONG)
        client = self.attach(server)
        before = 0
        for _ in range(3):
            self.assertIn("SIGINT", client.interrupt_after("continue"))
            here = position(client.ask("when"))
            self.assertGreater(here, before)
            client.ask("reverse-stepi")
            self.assertEqual(position(client.ask("when")), here - 1)
            client.ask("stepi 3")
            self.assertEqual(position(client.ask("when")), here + 2)
            before = here + 2
        client.say("kill")
        self.matches(self.ended(server), r"guest ended: stopped by the user")

    def test_detached_guest_runs_on(self):
        server = self.serve("preempt", *LONG)
        first = self.attach(server)
        first.ask("stepi 5")
        self.assertEqual(position(first.ask("when")), 5)
        first.ask("detach")
        first.end()
        deadline = time.monotonic() + gdbtest.TIMEOUT
        here = 5
        while here < 100000 and time.monotonic() < deadline:  # each look stops it for a moment only
            second = self.attach(server)
            here = position(second.ask("when"))
            second.ask("detach")
            second.end()
        self.assertGreaterEqual(here, 100000)
        server.interrupt()
        self.matches(self.ended(server), r"guest ended: stopped by the user")

    def test_guest_waits_for_a_client_that_vanished(self):
        server = self.serve("preempt", *LONG)
        client = self.attach(server)
        self.assertIn("SIGINT", client.interrupt_after("continue"))
        here = position(client.ask("when"))
        client.process.send_signal(signal.SIGKILL)
        client.end()
        again = self.attach(server)
        self.assertEqual(position(again.ask("when")), here)
        again.ask("reverse-stepi")
        self.assertEqual(position(again.ask("when")), here - 1)
        server.interrupt()
        self.ended(server)

    def test_guest_that_ends_without_a_client_ends_the_server(self):
        server = self.serve("racy")
        client = self.attach(server)
        client.say("detach")
        self.matches(self.ended(server), r"guest ended: debug-exit status [01]")

    def test_history_of_a_guest_that_has_ended(self):
        parts, _, _ = self.debug("racy", "continue", "when", "reverse-stepi", "when", "bt 1", "stepi", "stepi")
        end = position(parts[1])
        self.assertIn(NO_MORE_HISTORY, parts[0])
        self.assertEqual(position(parts[3]), end - 1)
        self.matches(parts[4], r"#0 .*(guest_exit|out8)")
        self.assertIn(NO_MORE_HISTORY, parts[6])

    def test_serial_input_reaches_the_guest(self):
        server = self.serve("echo")
        client = self.attach(server)
        client.ask("stepi 100")
        client.say("detach")
        server.wait_for("> ")
        server.say("hello there")
        server.wait_for(r"you typed 11 characters: hello there")
        server.wait_for("> ")
        client = self.attach(server)  # it sleeps in HLT: a step waits for what wakes it
        client.say("stepi")
        server.say("x")
        self.matches(client.ask("when"), r"interrupt_entry|serial|0x10")
        client.ask("detach")
        server.wait_for("you typed 1 characters: x")
        server.say("quit")
        self.matches(self.ended(server), r"guest ended: debug-exit status 0")


class Document(Live):
    """The commands of docs/debugging.md, in blocks of their own kind, print what it shows."""

    engine = "emu"

    def test_chapter(self):
        with open(os.path.join(HERE, "../../docs/debugging.md")) as file:
            blocks = document_test.console_blocks(file.read().replace("```console-live\n", "```console\n"))
        steps = [step for block in blocks for step in block]
        first = next(i for i, (_, command, _) in enumerate(steps) if "debug --live" in command)
        shown = [(command, output) for prompt, command, output in steps[first:] if prompt == "(gdb)"]
        last = max(i for i, (command, _) in enumerate(shown) if command == "reverse-stepi")
        shown = shown[: last + 1]
        self.assertGreater(len(shown), 9)
        parts, _, _ = self.debug("racy", *(command for command, _ in shown))
        for (command, expected), actual in zip(shown, parts):
            self.assertIsNone(document_test.differs(expected, actual.splitlines()), command)


class Emu(Sessions, Live):
    engine = "emu"


class Kvm(Sessions, Live):
    engine = "kvm"

    def test_points_bring_it_into_the_emulator_and_none_back_to_kvm(self):
        server = self.serve("preempt", *LONG)
        client = self.attach(server)
        moved = "moved from KVM to the emulator"
        self.assertIn("SIGINT", client.interrupt_after("continue"))
        self.assertNotIn(moved, client.ask("monitor info"))
        client.ask("stepi")
        self.assertIn(moved, client.ask("monitor info"))
        self.assertIn("SIGINT", client.interrupt_after("continue"))
        self.assertNotIn(moved, client.ask("monitor info"))
        client.ask("watch *(long *)0x90000")
        self.assertIn("SIGINT", client.interrupt_after("continue"))
        self.assertIn(moved, client.ask("monitor info"))
        client.say("kill")
        self.ended(server)


class Usage(Case):
    def test_options(self):
        racy = guest("racy")
        for arguments, words in ((["gdbserver", "--live", "--at=5", racy], "--at"), (["debug", "--live", "--at=end", racy], "--at"),
                                 (["gdbserver", "--engine=emu", "x.dvm"], "--live"), (["gdbserver", "--live"], "GUEST"),
                                 (["debug", "--live", "--serial=stdio", racy], "--serial"), (["gdbserver", "--live", "--stdio", "--serial=stdio", racy], "--serial"),
                                 (["gdbserver", "--live", "--memory=5", racy], "--memory"), (["debug", "--live", "--engine=none", racy], "--engine")):
            done = run(*arguments, status=2, cwd=self.folder)
            self.assertIn(words, done.stderr.decode(), arguments)

    def test_an_existing_trace_is_left_alone(self):
        trace = self.path("there.dvm")
        with open(trace, "w") as file:
            file.write("mine")
        done = run("gdbserver", "--live", "-o", trace, guest("racy"), status=1)
        self.assertIn("exists already", done.stderr.decode())
        with open(trace) as file:
            self.assertEqual(file.read(), "mine")

    def test_a_guest_that_is_not_there(self):
        done = run("gdbserver", "--live", "-o", self.path("none.dvm"), self.path("none"), status=1)
        self.assertIn("No such file", done.stderr.decode())
        self.assertFalse(os.path.exists(self.path("none.dvm")))

    def test_through_a_pipe(self):
        """The protocol has standard output for itself: what the guest prints comes in gdb."""
        trace = self.path("pipe.dvm")
        commands = [f"target remote | {gdbtest.DEJAVM} gdbserver --live --stdio --engine emu -o {trace} {guest('racy')}", "continue"]
        done = subprocess.run(["gdb", "-nx", "-q", "-batch", *arguments_of(commands)], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=gdbtest.TIMEOUT)
        text = done.stdout.decode()
        self.matches(text, r"threads share a list of 8 items", r"The guest ended: debug-exit status [01]", NO_MORE_HISTORY)
        deadline = time.monotonic() + gdbtest.TIMEOUT
        while b"sealed  " not in run("info", trace, status=None).stdout.replace(b"sealed", b"sealed  ") and time.monotonic() < deadline:
            time.sleep(0.1)
        self.matches(run("verify", trace).stdout.decode(), r": exact: ")


if __name__ == "__main__":
    gdbtest.set_up(sys.argv[1], sys.argv[2])
    unittest.main(argv=sys.argv[:1] + sys.argv[3:])
