#!/usr/bin/env python3
"""Debugs recordings of the example guests with the real gdb, as a user does.

usage: debug_test.py DEJAVM EXAMPLES_FOLDER [unittest arguments, e.g. the name of a class]
"""
import json
import os
import re
import signal
import socket
import subprocess
import sys
import unittest

import gdbtest
from gdbtest import Case, Process, Server, gdb, position, record, record_panic, run

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
NO_MORE_HISTORY = "No more reverse-execution history."


def value(text):
    """Of what `print` printed."""
    return re.search(r"\$\d+ = (.*)", text).group(1)


def hits(text):
    """How often `info breakpoints` says that a point was hit."""
    found = re.search(r"already hit (\d+) time", text)
    return int(found.group(1)) if found else 0


def register(state, name):
    """Of `dejavm state --json`."""
    return int(str(state["registers"][name]), 0)


class Racy(Case):
    """From a panic to the instruction that caused it."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.trace = cls.path("racy.dvm")
        cls.thread, cls.item, cls.owner = record_panic(cls.trace)

    def test_starts_at_the_crash_with_symbols(self):
        stack, place = gdb(self.trace, "bt", "when")
        self.matches(stack, r"#0 .*guest_exit \(.*panic\.c:\d+", r"#1 .*system_call \(.*racy\.c:\d+")
        self.matches(place, r"position [\d,]+ of [\d,]+ \(100\.00%\)\nrip 0x[0-9a-f]+ guest_exit\+0x\w+ \(panic\.c:13\): cli")

    def test_reverse_watchpoint_finds_who_took_the_item(self):
        _, back, me, before, over, after = gdb(
            self.trace, f"watch items[{self.item}].owner", "reverse-continue", "print self",
            f"print items[{self.item}].owner", "stepi", f"print items[{self.item}].owner")
        # Backwards, what gdb calls old is later: the value after the write that we stand before.
        self.matches(back, rf"Old value = {self.owner}\nNew value = 0\n", r"list_take \(.*list\.user\.c:46\n",
                     r"46\s+first->owner = self;")
        self.assertEqual((value(me), value(before), value(after)), (str(self.owner), "0", str(self.owner)))
        self.matches(over, rf"Old value = 0\nNew value = {self.owner}\n")  # the step over the write reports it too

    def test_reverse_watchpoint_finds_the_write_that_corrupted_the_list(self):
        trace, text = self.trace, ""
        for attempt in range(6):  # not every corruption is a write that can be told by what its thread had read
            text = gdb(trace, f"source {HERE}/find_culprit.py")[0]
            if "CULPRIT" in text:
                break
            trace = self.path(f"again-{attempt}.dvm")
            record_panic(trace)
        self.matches(text, r"CULPRIT \w+ line", r"READ at")
        function, line, thread, at, instruction = re.search(
            r"CULPRIT (\w+) line (\d+) thread (\d) at 0x\w+ position ([\d,]+): (.*)", text).groups()
        with open(os.path.join(ROOT, "examples/racy/list.user.c")) as file:
            source = file.read().splitlines()[int(line) - 1]
        self.assertIn("list->head = " + {"list_take": "rest", "list_give": "item"}[function], source)
        self.matches(instruction, r"^mov qword ptr \[\w+\], \w+$")
        # The race: between the thread's read of the head and this write came the timer's interrupt.
        read_at = re.search(r"READ at position ([\d,]+)", text).group(1)
        events = run("dump", trace, "--from", read_at, "--to", at).stdout.decode()
        self.matches(events, r"interrupt +vector 0x20")

    def test_last_write_agrees_with_the_watchpoint(self):
        _, back, at, _, _, written, here = gdb(self.trace, "watch ticks", "reverse-continue", "when", "delete", "goto end",
                                               "last-write ticks", "when")
        self.assertEqual(position(at), position(here))
        new, old = re.search(r"Old value = (\d+)\nNew value = (\d+)\n", back).groups()
        self.matches(written, rf"8 bytes at 0x[0-9a-f]+ \(ticks\): old 0x{int(old):016x}, new 0x{int(new):016x}; [\d,]+ transitions before",
                     r"timer\+0x\w+ \(racy\.c:\d+\): ")

    def test_console_text_appears_while_running_forwards(self):
        _, text = gdb(self.trace, 'goto console "PANIC"', "continue")
        self.matches(text, r"PANIC in thread \d, tick \d+: a free item is somebody else's", NO_MORE_HISTORY)


class Moving(Case):
    """Steps of all kinds, both ways, and the ends of history."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.trace = cls.path("racy.dvm")
        record_panic(cls.trace)

    def test_ends_of_history(self):
        for there, command, where in (("start", "reverse-continue", r"position 0 of"), ("start", "reverse-stepi", r"position 0 of"),
                                      ("end", "continue", r"\(100\.00%\)"), ("end", "stepi", r"\(100\.00%\)")):
            _, text, at = gdb(self.trace, f"goto {there}", command, "when")
            self.assertIn(NO_MORE_HISTORY, text, (there, command))
            self.matches(at, where)
        back, begin, forth, end = gdb(self.trace, "reverse-continue", "when", "continue", "when")
        self.assertIn(NO_MORE_HISTORY, back)
        self.assertIn(NO_MORE_HISTORY, forth)
        self.assertEqual(position(begin), 0)
        self.assertIn("(100.00%)", end)

    def test_a_step_to_the_end_is_a_step(self):
        _, last, _, first = gdb(self.trace, "reverse-stepi", "stepi", "goto 1", "reverse-stepi")
        self.assertNotIn(NO_MORE_HISTORY, last)
        self.assertNotIn(NO_MORE_HISTORY, first)

    def test_random_walk_shows_the_states_of_a_forward_replay(self):
        text = gdb(self.trace, f"source {HERE}/random_walk.py")[0]
        states = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("STATE ")]
        self.assertGreaterEqual(len(states), 40, text[-2000:])
        for seen in states:
            replayed = json.loads(run("state", self.trace, "--json", "--at", seen["position"],
                                      "--mem", "phys:0x107000:64").stdout)
            memory = "".join(replayed["memory"][0]["lines"])
            for name in ("rip", "rsp", "rax", "rbx"):
                self.assertEqual(seen[name], register(replayed, name), (seen, name))
            self.assertEqual(seen["memory"], memory, seen)

    def test_source_lines_both_ways(self):
        parts = gdb(self.trace, "goto start", "tbreak guest_main", "continue", "next", "next", "next", "reverse-next", "reverse-next",
                    "tbreak list_init", "continue", "finish", "tbreak list_init", "reverse-continue", "reverse-finish", "step")
        self.matches(parts[2], r"guest_main \(\) at .*racy\.c:\d+")
        lines = [int(re.search(r"^(\d+)\t", parts[i], re.M).group(1)) for i in (3, 4, 5, 6, 7)]
        self.assertEqual(lines, sorted(set(lines[:3])) + [lines[1], lines[0]])
        self.matches(parts[9], r"list_init \(\) at .*racy\.c")
        self.matches(parts[10], r"guest_main \(\) at .*racy\.c")
        self.matches(parts[12], r"list_init \(\) at .*racy\.c")
        self.matches(parts[13], r"(?s)guest_main \(\) at .*list_init\(\);")
        self.matches(parts[14], r"list_init \(\) at .*racy\.c")

    def test_reverse_step_enters_a_function_from_its_end(self):
        parts = gdb(self.trace, "goto start", "tbreak list_init", "continue", "finish", "reverse-step", "reverse-finish")
        self.matches(parts[4], r"list_init \(\) at .*racy\.c:\d+\n\d+\s+}")
        self.matches(parts[5], r"list_init\(\);")

    def test_instructions_both_ways_over_interrupts(self):
        """From before an interrupt's delivery through the handler's first instructions, and back, one at a time."""
        commands = ["goto start", "monitor catch irq", "continue", "monitor catch off"]
        forwards = [c for _ in range(6) for c in ("print $pc", "when", "stepi")]
        backwards = [c for _ in range(6) for c in ("reverse-stepi", "print $pc", "when")]
        parts = gdb(self.trace, *commands, *forwards, *backwards)
        self.matches(parts[2], r"caught: interrupt 0x20, about to happen \(position \d+\)")
        ahead = [(value(parts[4 + 3 * i]), position(parts[5 + 3 * i])) for i in range(6)]
        back = [(value(parts[23 + 3 * i]), position(parts[24 + 3 * i])) for i in range(6)]
        self.assertEqual(ahead, back[::-1])
        self.assertEqual([p for _, p in ahead], list(range(ahead[0][1], ahead[0][1] + 6)))
        self.assertIn("interrupt", ahead[1][0] + ahead[2][0] + ahead[3][0] + parts[6])


class Points(Case):
    """Breakpoints and watchpoints, both ways."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.trace = cls.path("racy.dvm")
        record_panic(cls.trace)
        cls.ticks = int(value(gdb(cls.trace, "print ticks")[0]))

    def both_ways(self, point, setup=()):
        """How often a point is hit on the way from start to end, and back."""
        parts = gdb(self.trace, "goto start", *setup, point, "ignore $bpnum 1000000", "continue", "info breakpoints", "delete",
                    *setup, point, "ignore $bpnum 1000000", "reverse-continue", "info breakpoints")
        self.assertIn(NO_MORE_HISTORY, parts[3 + len(setup)])
        self.assertIn(NO_MORE_HISTORY, parts[-2])
        return hits(parts[4 + len(setup)]), hits(parts[-1])

    def test_breakpoints_are_hit_as_often_backwards(self):
        for point in ("break *list_take", "hbreak *list_give", "break *timer"):
            forwards, backwards = self.both_ways(point)
            self.assertGreater(forwards, 1, point)
            self.assertEqual(forwards, backwards, point)
        self.assertEqual(forwards, self.ticks)

    def test_conditional_breakpoints(self):
        every, _ = self.both_ways("break *timer")
        some, back = self.both_ways("break *timer if ticks % 2 == 1")
        self.assertEqual((some, back), (every // 2, every // 2))
        _, _, stop, ticks = gdb(self.trace, "goto start", "break timer if ticks == 2", "continue", "print ticks")
        self.matches(stop, r"Breakpoint 1, timer \(")
        self.assertEqual(value(ticks), "2")

    def test_watchpoints_are_hit_as_often_backwards(self):
        self.assertEqual(self.both_ways("watch ticks"), (self.ticks, self.ticks))
        reads = self.both_ways("rwatch ticks")
        accesses = self.both_ways("awatch ticks")
        self.assertGreaterEqual(reads[0], self.ticks)
        self.assertEqual(reads[0], reads[1])
        self.assertGreaterEqual(accesses[0], reads[0])
        self.assertEqual(accesses[0], accesses[1])

    def test_watchpoint_of_odd_length_and_place(self):
        forwards, backwards = self.both_ways("watch *(char (*)[13])((char *)&free_items.head - 5)")
        whole, _ = self.both_ways("watch free_items.head")
        self.assertGreater(forwards, 10)
        self.assertEqual((forwards, backwards), (whole, whole))
        single, back = self.both_ways("watch *((char *)&ticks)")
        self.assertEqual((single, back), (self.ticks, self.ticks))
        never, back = self.both_ways("watch *((char *)&ticks + 7)")
        self.assertEqual((never, back), (0, 0))

    def test_watchpoint_values_forwards(self):
        _, _, first, second = gdb(self.trace, "goto start", "watch ticks", "continue", "continue")
        self.matches(first, r"Old value = 0\nNew value = 1\n", r"timer \(")
        self.matches(second, r"Old value = 1\nNew value = 2\n")

    def test_rwatch_backwards_stands_before_the_read(self):
        _, stop, code, step = gdb(self.trace, "rwatch ticks", "reverse-continue", "x/i $pc", "stepi")
        self.matches(stop, r"Hardware read watchpoint 1: ticks\n\nValue = \d+\n")
        self.matches(code, r"=> .*<ticks>")
        self.matches(step, r"Hardware read watchpoint 1: ticks")

    def test_a_moved_target_does_not_confuse_watchpoints(self):
        """gdb remembers a watchpoint's value; after goto it must be that of the new place."""
        _, _, _, ticks, stop = gdb(self.trace, "watch ticks", "goto start", "goto 50%", "print ticks", "continue")
        self.matches(stop, rf"Old value = {value(ticks)}\nNew value = {int(value(ticks)) + 1}\n")

    def test_breakpoints_are_many_and_not_in_memory(self):
        code = run("state", self.trace, "--json", "--mem", "list_take:16").stdout
        before = json.loads(code)["memory"][0]["lines"]
        breaks = [f"break *(list_take + {i})" for i in (0, 1, 4, 6, 8, 10, 11, 14, 17, 20, 22, 25)]
        others = [f"hbreak *0x{0x200000 + i:x}" for i in range(100)]
        parts = gdb(self.trace, *breaks, *others, "reverse-continue", "x/16xb list_take", "monitor walk list_take")
        self.assertNotIn("Cannot insert", parts[-3])
        self.matches(parts[-3], r"Breakpoint \d+, .*list_take")
        seen = re.findall(r"0x([0-9a-f]{2})\b(?!:)", re.sub(r"^0x\w+.*?:", "", parts[-2], flags=re.M))
        self.assertEqual("".join(seen), before[0])


class Monitor(Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.trace = cls.path("racy.dvm")
        cls.thread, cls.item, cls.owner = record_panic(cls.trace)
        cls.console = run("replay", cls.trace).stdout.decode()
        cls.end = json.loads(run("info", cls.trace, "--json").stdout)["seal"]["end_position"]

    def test_help_names_every_command(self):
        text = gdb(self.trace, "monitor help")[0]
        for command in ("when", "goto", "mark", "marks", "info", "events", "console", "last-write", "walk", "phys", "catch"):
            self.matches(text, rf"(?m)^{command}\b")

    def test_goto(self):
        places = {"0": 0, "start": 0, "end": self.end, "crash": self.end, "1_000": 1000, "1,000": 1000, "0x3e8": 1000,
                  "event 0": None, "50%": self.end // 2}
        for text, expected in places.items():
            shown, at = gdb(self.trace, f"monitor goto {text}", "monitor when")
            if expected is not None:
                self.assertLessEqual(abs(position(at) - expected), 1 if "%" in text else 0, text)
            self.assertEqual(position(shown), position(at))
        parts = gdb(self.trace, "goto 1000", "goto +5", "goto -10", "when", "print $rip", "monitor goto 1000", "print $rip")
        self.assertEqual([position(p) for p in parts[:4]], [1000, 1005, 995, 995])
        self.assertEqual(int(re.search(r"0x[0-9a-f]+", parts[4]).group(), 16), self.rip_at(995))
        self.assertEqual(int(re.search(r"0x[0-9a-f]+", parts[6]).group(), 16), self.rip_at(1000))

    def rip_at(self, at):
        return register(json.loads(run("state", self.trace, "--json", "--at", str(at)).stdout), "rip")

    def test_goto_refuses_what_is_not_there(self):
        for text, message in (("nowhere", "is not a position"), (str(self.end + 1), "outside the trace"), ("-1000000000", "outside the trace"),
                              ("+99999999999999999999", "is not a position"), ("event 99999999", "there is no event"), ("", "usage"), ("1 2", "usage"),
                              ('console "no such text"', "does not print that"), ('console "P" sometimes', "first, last, next or previous"),
                              ('console "', "without its end"), ("101%", "is not a position")):
            shown, at = gdb(self.trace, f"monitor goto {text}", "monitor when")
            self.assertIn(message, shown, text)
            self.assertEqual(position(at), self.end, text)

    def test_marks(self):
        parts = gdb(self.trace, "monitor marks", "goto 1234", "monitor mark here", "goto end", "monitor mark there", "monitor marks",
                    "goto here", "when", "monitor mark 5%", "monitor mark", "monitor mark end")
        self.assertIn("no marks", parts[0])
        self.assertEqual(parts[2], "here is position 1,234")
        self.matches(parts[5], r"(?m)^\s+1,234  here$", r"(?m)^\s+[\d,]+  there$")
        self.assertEqual(position(parts[7]), 1234)
        for refused in (parts[8], parts[9], parts[10]):
            self.matches(refused, "cannot be a mark|usage")

    def test_console_says_what_was_printed_so_far(self):
        whole, _, none, at, until = gdb(self.trace, "monitor console", "goto start", "monitor console",
                                        'goto console "PANIC"', "monitor console")
        self.assertEqual(whole.strip(), self.console.replace("\r\n", "\n").strip())
        self.assertEqual(none, "[nothing printed so far]")
        before = self.console[: self.console.index("PANIC")]
        self.assertEqual(until.strip(), before.replace("\r\n", "\n").strip())

    def test_goto_console_finds_first_last_next_and_previous(self):
        parts = gdb(self.trace, 'goto console "0x" first', 'goto console "0x" last', "goto start", 'goto console "0x" next',
                    'goto console "0x" next', 'goto console "0x" previous', "print/c $al")
        first, last, _, n1, n2, p1 = [position(p) for p in parts[:6]]
        self.assertEqual(n1, first)
        self.assertLess(first, n2)
        self.assertLessEqual(n2, last)
        self.assertEqual(p1, first)
        self.assertEqual(value(parts[6]), "48 '0'")

    def test_events(self):
        parts = gdb(self.trace, "monitor events", "goto 50%", "monitor events 4", "monitor events 0", "monitor events 1001")
        self.matches(parts[0], r"(?m)^=>", "debug-exit status 1")
        self.assertEqual(len(parts[0].splitlines()), 11)
        self.assertEqual(len(parts[2].splitlines()), 5)
        listed = re.findall(r"(?m)^(=>|  )\s+(\d+)\s+([\d,]+)", parts[2])
        positions = [int(p.replace(",", "")) for _, _, p in listed]
        marked = [int(p.replace(",", "")) for mark, _, p in listed if mark == "=>"]
        self.assertEqual(marked, [min(p for p in positions if p >= self.end // 2)])
        for refused in parts[3:]:
            self.assertIn("not a number from 1 to 1000", refused)

    def test_last_write(self):
        parts = gdb(self.trace, f"monitor last-write items+{16 * self.item + 8} 4", "print $pc", "when",
                    "monitor last-write list_take", "when", "monitor last-write nonsense", "monitor last-write 0 0",
                    "goto end", f"last-write items[{self.item}].owner", "goto end", "monitor last-write $rsp-8 8")
        self.matches(parts[0], r"list_take\+0x\w+ \(list\.user\.c:46\): mov dword ptr",
                     rf"4 bytes at 0x\w+ \(items\+0x\w+\): old 0x00000000, new 0x0000000{self.owner}; [\d,]+ transitions before")
        self.matches(parts[1], r"<list_take\+")
        self.assertEqual(position(parts[0]), position(parts[2]))
        self.assertIn("nothing has written to these 8 bytes before here: they are as the guest was loaded", parts[3])
        self.assertEqual(position(parts[4]), position(parts[2]))
        self.assertIn("neither a number nor a register nor a symbol", parts[5])
        self.assertIn("not a number from 1 to", parts[6])
        self.matches(parts[8], r"list\.user\.c:46", rf"new 0x0000000{self.owner}")
        self.matches(parts[10], r"8 bytes at 0x\w+")

    def test_last_write_by_an_interrupt(self):
        """The flags that an interrupt's delivery pushes for a ring-3 thread have no instruction that writes them."""
        parts = gdb(self.trace, "goto start", "monitor catch irq", "continue", "stepi", "monitor last-write $rsp", "monitor when")
        self.matches(parts[4], "written by the delivery of interrupt 0x20")

    def test_catch(self):
        parts = gdb(self.trace, "monitor catch", "goto start", "monitor catch irq", "continue", "monitor catch off",
                    "monitor catch syscall", "continue", "goto end", "reverse-continue", "monitor catch off",
                    "monitor catch port 0xf4", "goto start", "continue", "x/i $pc", "monitor catch off", "monitor catch exception 99",
                    "monitor catch port", "monitor catch nothing", "goto end", "monitor catch irq 0x20", "reverse-continue", "when",
                    "reverse-continue", "when")
        self.assertEqual(parts[0], "catching: nothing")
        self.assertEqual(parts[2], "catching: irq")
        self.matches(parts[3], r"caught: interrupt 0x20, about to happen")
        self.assertEqual(parts[4], "catching: nothing")
        self.assertEqual(parts[5], "catching: syscall")
        self.matches(parts[6], r"caught: system call, happened")
        self.matches(parts[8], r"caught: system call, about to happen", r"list_take|list_give|list_panic")
        self.matches(parts[12], r"caught: write to port 0xf4, value 0x1, about to happen")
        self.matches(parts[13], r"=> .*out +%al,\$0xf4")
        for refused in parts[15:18]:
            self.matches(refused, r"not an exception|usage")
        self.matches(parts[20], r"caught: interrupt 0x20")
        self.assertLess(position(parts[23]), position(parts[21]))

    def test_walk_and_physical_memory(self):
        text, bad, virtual, physical, qemu, none = gdb(
            self.trace, "monitor walk list_take", "monitor walk 0x0000900000000000", "x/16xb list_take",
            "monitor phys list_take 16", "monitor phys 0xffffffffff 4", "monitor walk")
        self.matches(text, r"4-level paging, CR3 0x[0-9a-f]+", r"(?m)^PML4E at 0x\w+: 0x\w{16}  present writable user accessed",
                     r"(?m)^PTE   at .* present writable user accessed", r"(?m)^physical 0x[0-9a-f]+, in a page of 4\.0 KiB$")
        self.assertIn("not canonical", bad)
        seen = re.findall(r"\t0x([0-9a-f]{2})", virtual)
        self.assertEqual(re.findall(r" ([0-9a-f]{2})\b", physical.splitlines()[1].split("|")[0]), seen)  # mapped one to one
        self.assertIn("?? ?? ?? ??", qemu)
        self.assertIn("usage: monitor walk ADDR", none)

    def test_info_and_unknown_commands(self):
        info, unknown, long, many = gdb(self.trace, "monitor info", "monitor wehn", "monitor when " + "x" * 2000, "monitor " + "a " * 50)
        self.matches(info, r"(?m)^trace +.*racy\.dvm, .* recorded under emu", r"(?m)^end +position [\d,]+, \d+ events: debug-exit status 1 \(a crash\)",
                     r"(?m)^vCPU +64-bit mode, ring 0, running", r"(?m)^checkpoints +\d+ in ")
        self.assertIn('there is no command "wehn"', unknown)
        self.assertIn("a word longer than", long)
        self.assertIn("too many words", many)


class Modes(Case):
    def test_32_bit_guest(self):
        trace = self.path("hello32.dvm")
        record(trace, "hello32")
        parts = gdb(trace, "bt", "goto start", "break guest_main", "continue", "info registers eip", "next", "reverse-next", "monitor walk guest_main",
                    "delete", "reverse-continue")
        self.matches(parts[0], r"guest_exit", r"guest_main")
        self.matches(parts[3], r"Breakpoint 1, guest_main \(\)")
        self.matches(parts[4], r"eip +0x[0-9a-f]+ +0x[0-9a-f]+ <guest_main")
        self.matches(parts[7], r"paging is off")
        self.assertIn(NO_MORE_HISTORY, parts[9])

    def test_page_faults_and_physical_memory(self):
        trace = self.path("paging.dvm")
        record(trace, "paging")
        parts = gdb(trace, "goto start", "monitor catch exception 14", "continue", "print/x $cr2", "when", "reverse-stepi", "when",
                    "continue", "when", "reverse-continue", "when", "monitor catch off", "monitor walk $rsp", "info registers cr3 efer",
                    "maintenance packet Qqemu.PhyMemMode:1", "x/8xb 0x1000", "maintenance packet Qqemu.PhyMemMode:0", "monitor phys 0x1000 8")
        self.matches(parts[2], r"caught: exception 14 \(#PF, page fault\), happened")
        self.assertEqual(position(parts[6]), position(parts[4]) - 1)
        self.assertEqual(position(parts[8]), position(parts[4]))  # the same one again
        self.matches(parts[9], r"about to happen")
        self.assertEqual(position(parts[10]), position(parts[6]))
        self.matches(parts[13], r"(?m)^cr3 ", r"(?m)^efer +0x\w+ +\[.*LMA.*\]")
        seen = re.findall(r"\t0x([0-9a-f]{2})", parts[15])
        self.assertEqual(len(seen), 8)
        self.assertEqual(re.findall(r" ([0-9a-f]{2})\b", parts[17].splitlines()[1].split("|")[0]), seen)

    def test_preempted_ring_3_tasks(self):
        trace = self.path("preempt.dvm")
        record(trace, "preempt", "--append", "preemptions=6")
        parts = gdb(trace, "monitor catch irq", "reverse-continue", "monitor info", "x/i $pc", "when", "reverse-stepi", "stepi", "when",
                    "info registers cs")
        self.matches(parts[1], r"caught: interrupt 0x20, about to happen")
        self.matches(parts[2], r"ring [03]")
        self.assertEqual(position(parts[4]), position(parts[7]))

    def test_guest_without_symbols_and_symbols_from_elsewhere(self):
        stripped, trace = self.path("stripped guest"), self.path("stripped trace.dvm")
        original = os.path.join(gdbtest.EXAMPLES, "racy")
        subprocess.run(["objcopy", "--strip-all", original, stripped], check=True)
        run("record", "--engine", "emu", "-o", trace, stripped)
        bare, found = gdb(trace, "bt 1", "monitor last-write ticks")
        self.matches(bare, r"#0 +0x[0-9a-f]+ in \?\? \(\)")
        self.assertIn("nor a symbol", found)
        odd = self.path('more "symbols"')
        os.link(original, odd)
        named, found = gdb(trace, "bt 1", "monitor last-write ticks", options=["--symbols", odd])
        self.matches(named, r"#0 .*guest_exit \(")
        self.matches(found, r"timer\+0x\w+ \(racy\.c:\d+\)")


class Interrupting(Case):
    """Ctrl-C while gdb waits for the guest, in both directions."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.trace = cls.path("long.dvm")
        record(cls.trace, "preempt", "--append", "preemptions=1000")

    def setUp(self):
        self.server = Server(self.trace)
        self.addCleanup(self.server.end)
        with open(self.path("commands.gdb"), "wb") as file:
            file.write(run("gdbserver", "--print-commands").stdout)
        self.gdb = Process("gdb", "-nx", "-q", "-ex", "set pagination off", "-x", self.path("commands.gdb"), "-ex", f"target remote {self.server.address}")
        self.addCleanup(self.gdb.end)
        self.gdb.wait_for(r"\(gdb\) ")
        self.asked = 0

    def ask(self, command):
        self.asked += 1
        self.gdb.say(command)
        self.gdb.say(f"echo @{self.asked}\\n")
        return self.gdb.wait_for(f"@{self.asked}\n")

    def interrupt(self, command):
        """Runs, and presses Ctrl-C as soon as gdb waits: the packets that gdb sends say when."""
        self.ask("set debug remote 1")
        self.gdb.say(command)
        self.gdb.wait_for(r"Sending packet: \$(vCont;c|bc|c)[^\n]*\n")
        self.gdb.interrupt()
        text = self.gdb.wait_for(r"(Program received signal SIGINT|No more reverse-execution history|signal SIGTRAP)")
        self.ask("set debug remote 0")
        return text

    def test_forwards_and_backwards(self):
        self.ask("monitor goto start")
        self.ask("maintenance flush register-cache")
        # Nothing reads this place; to know, every access to its page has to be looked at.
        self.ask("rwatch *(long *)0x90000")
        self.assertIn("SIGINT", self.interrupt("continue"))
        here = position(self.ask("monitor when"))
        self.assertGreaterEqual(here, 0)
        self.ask("monitor goto end")
        self.ask("maintenance flush register-cache")
        end = position(self.ask("monitor when"))
        self.assertLess(here, end)
        self.assertIn("SIGINT", self.interrupt("reverse-continue"))
        there = position(self.ask("monitor when"))
        self.assertGreater(there, 0)
        self.assertLessEqual(there, end)

    def test_monitor_commands(self):
        """gdb forgets a monitor command on Ctrl-C without telling the server: the next answer must be the right one."""
        self.ask("set debug remote 1")
        self.gdb.say("monitor last-write 0x90000 8")
        self.gdb.wait_for(r"Sending packet: \$qRcmd[^\n]*\n")
        self.gdb.interrupt()
        self.gdb.wait_for(r"Quit\n")
        self.ask("set debug remote 0")
        self.assertIn("(100.00%)", self.ask("monitor when"))
        self.assertIn("catching: nothing", self.ask("monitor catch"))


class Serving(Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.trace = cls.path("a trace.dvm")
        record_panic(cls.trace)

    def server(self, *options):
        server = Server(self.trace, *options)
        self.addCleanup(server.end)
        return server

    def test_one_client_after_the_other(self):
        server = self.server("--at", "start")
        first = server.gdb("monitor goto 1000", "detach")
        second = server.gdb("monitor when", "break *0x100000", "disconnect")
        third = server.gdb("monitor when", "kill")
        fourth = server.gdb("monitor when")
        for seen in (second, third, fourth):
            self.assertEqual(position(seen[0]), 1000)
        self.assertEqual(len(first), 2)

    def test_garbage_does_not_end_the_server(self):
        server = self.server()
        host, port = server.address.split(":")
        for data in (b"\x00\xff" * 1000, b"$" * 100000, b"GET / HTTP/1.1\r\n\r\n", b"$g#00" * 50, b"$m0,ffffffffffffffff#00"):
            with socket.create_connection((host, int(port)), timeout=60) as client:
                try:
                    client.sendall(data)
                except OSError:
                    pass
        self.matches(server.gdb("monitor when")[0], r"position [\d,]+ of")

    def test_stops_in_order(self):
        for number, status in ((signal.SIGINT, 0), (signal.SIGTERM, 0)):
            server = self.server()
            server.process.send_signal(number)
            self.assertEqual(server.process.wait(30), status)

    def test_unix_socket(self):
        path = self.path("socket")
        server = Process(gdbtest.DEJAVM, "gdbserver", self.trace, "--listen", "unix:" + path)
        self.addCleanup(server.end)
        server.wait_for(r"target remote " + re.escape(path))
        server.address = path
        self.matches(Server.gdb(server, "monitor when")[0], r"position [\d,]+ of")
        server.interrupt()
        self.assertEqual(server.process.wait(30), 0)
        self.assertFalse(os.path.exists(path))

    def test_standard_input_and_output(self):
        command = f"target remote | {gdbtest.DEJAVM} gdbserver --stdio '{self.trace}' --at 1000"
        done = subprocess.run(["gdb", "-nx", "-q", "-batch", "-ex", command, "-ex", "monitor when", "-ex", "reverse-stepi", "-ex", "monitor when"],
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60)
        text = done.stdout.decode()
        self.matches(text, r"position 1,000 of", r"position 999 of")

    def test_commands_for_a_gdb_of_ones_own(self):
        script = self.path("commands.gdb")
        with open(script, "wb") as file:
            file.write(run("gdbserver", "--print-commands").stdout)
        server = self.server("--at", "start")
        parts = server.gdb(f"source {script}", "goto 1000", "print $pc", "when", "events 3")
        rip = register(json.loads(run("state", self.trace, "--json", "--at", "1000").stdout), "rip")
        self.assertEqual(int(re.search(r"0x[0-9a-f]+", parts[2]).group(), 16), rip)
        self.assertEqual(position(parts[3]), 1000)

    def test_launch_configuration_of_vs_code(self):
        """What the C/C++ extension does with docs/vscode-launch.json: gdb's machine interface."""
        folder = self.path("workspace")
        os.mkdir(folder)
        with open(os.path.join(ROOT, "docs/vscode-launch.json")) as file:
            launch = json.loads(file.read().replace("${workspaceFolder}", folder))["configurations"][0]
        with open(os.path.join(folder, "dejavm.gdb"), "wb") as file:
            file.write(run("gdbserver", "--print-commands").stdout)
        self.assertTrue(launch["program"].endswith("/build/examples/racy"))
        self.assertTrue(launch["miDebuggerServerAddress"].startswith("127.0.0.1:"))
        server = self.server("--at", "start")
        mi = Process(launch["miDebuggerPath"], "-nx", "-q", "--interpreter=mi")
        self.addCleanup(mi.end)

        def do(command, answer=r"\^(done|connected)"):
            mi.say(command)
            return mi.wait_for(rf"{answer}[^\n]*\n")

        for setup in launch["setupCommands"]:
            text = setup["text"]
            do(text if text.startswith("-") else f'-interpreter-exec console "{text}"')
        do("-file-exec-and-symbols " + os.path.join(gdbtest.EXAMPLES, "racy"))
        do("-target-select remote " + server.address)
        do("-break-insert guest_main")
        self.assertIn('func="guest_main"', do("-exec-continue", r'\*stopped,reason="breakpoint-hit"'))
        self.assertIn('func="guest_main"', do("-exec-next", r'\*stopped,reason="end-stepping-range"'))
        do('-interpreter-exec console "reverse-continue"', r'\*stopped,reason="breakpoint-hit"')
        do('-interpreter-exec console "reverse-continue"', rf'{NO_MORE_HISTORY}[^*]*\*stopped')
        do('-interpreter-exec console "goto end"')
        self.assertIn('func="guest_exit"', do("-stack-list-frames"))
        self.assertIn("value=", do("-data-evaluate-expression ticks"))

    def test_where_it_starts(self):
        for at, pattern in (("start", r"position 0 of"), ("1000", r"position 1,000 of"), ("crash", r"\(100\.00%\)"), ("end", r"\(100\.00%\)"),
                            ("50%", r"\(50\.00%\)"), ("event 3", r"position [\d,]+ of")):
            self.matches(gdb(self.trace, "when", options=["--at", at])[0], pattern)

    def test_no_crash(self):
        trace = self.path("hello.dvm")
        record(trace, "hello")
        self.assertIn("(100.00%)", gdb(trace, "when")[0])
        done = run("debug", trace, "--at", "crash", status=1)
        self.assertIn(b"the guest did not crash: it ended with debug-exit status 0", done.stderr)

    def test_history_cannot_be_changed(self):
        register, memory, memory_after, register_after = gdb(self.trace, "set var $rax = 5", "set var ticks = 99", "print ticks", "print $rax")
        self.assertIn("this is a recording: registers can be read, but not changed", register)
        self.assertIn("Cannot access memory", memory)  # all that gdb 13 says of a write that was refused
        self.assertNotEqual(value(memory_after), "99")
        self.assertNotEqual(value(register_after), "5")

    def test_debug_leaves_nothing_behind_and_passes_the_status_on(self):
        temporary = self.path("temporary files")
        os.mkdir(temporary)
        environment = {**os.environ, "TMPDIR": temporary}
        done = run("debug", self.trace, "--", "-nx", "-batch", "-ex", "quit 7", status=7, env=environment)
        self.assertEqual(os.listdir(temporary), [], done.stderr)
        done = run("debug", self.trace, "--gdb", "/nonexistent/gdb", status=1, env=environment)
        self.assertIn(b"/nonexistent/gdb", done.stderr)
        self.assertEqual(os.listdir(temporary), [])

    def test_debug_ended_by_a_signal_leaves_nothing_behind(self):
        temporary = self.path("temporary")
        os.mkdir(temporary)
        process = Process(gdbtest.DEJAVM, "debug", self.trace, "--", "-nx", "-ex", "echo ready\\n", env={**os.environ, "TMPDIR": temporary})
        self.addCleanup(process.end)
        process.wait_for(r"ready\n")
        self.assertNotEqual(os.listdir(temporary), [])
        process.process.send_signal(signal.SIGTERM)
        self.assertEqual(process.process.wait(60), -signal.SIGTERM)
        self.assertEqual(os.listdir(temporary), [])

    def test_unsealed_trace_is_sealed(self):
        trace = self.path("unsealed.dvm")
        run("record", "--engine", "emu", "--no-seal", "-o", trace, os.path.join(gdbtest.EXAMPLES, "hello"))
        self.matches(gdb(trace, "when")[0], r"position [\d,]+ of")
        self.assertTrue(json.loads(run("info", trace, "--json").stdout)["sealed"])

    def test_missing_and_damaged_traces(self):
        self.assertIn(b"no-such", run("debug", self.path("no-such.dvm"), status=1).stderr)
        with open(self.trace, "rb") as file:
            data = bytearray(file.read())
        data[200:300] = bytes(100)
        with open(self.path("damaged.dvm"), "wb") as file:
            file.write(data)
        run("gdbserver", self.path("damaged.dvm"), status=4)


def main():
    gdbtest.set_up(sys.argv[1], sys.argv[2])
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]])


if __name__ == "__main__":
    main()
