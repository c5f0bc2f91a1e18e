#!/usr/bin/env python3
"""The real gdb, in batch mode, on the tests' debug target."""
import os
import shutil
import signal
import subprocess
import sys
import threading
import xml.dom.minidom

from support import Case, ask, gdb, guest, main, start_gdb


def source_line(mark):
    """The number of the line of the guest's source that ends with that comment."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "guest.c")
    with open(path) as f:
        for number, line in enumerate(f, 1):
            if "/* line: %s */" % mark in line:
                return number
    raise AssertionError(mark)


class GdbCase(Case):
    def assert_in_order(self, text, *parts):
        """Each part occurs after the one before."""
        at = 0
        for part in parts:
            found = text.find(part, at)
            self.assertGreaterEqual(found, 0, "%r is missing (from %d on) in:\n%s" % (part, at, text))
            at = found + len(part)

    def assert_clean(self, text):
        for bad in ("warning:", "rror:", "internal-error", "Ignoring packet", "Truncated", "rejected"):
            self.assertNotIn(bad, text)


class Registers(GdbCase):
    def test_64_bit(self):
        text = gdb(self.server(), "info registers", "info registers float", "info registers xmm0 ymm15 mxcsr", "info threads",
                   "info mem", "show osabi", symbols="guest64.elf")
        self.assert_clean(text)
        self.assert_in_order(
            text, "guest_start ()", "\nrax            0x0 ", "\nrsp            0x1ff000 ", "\nr15  ",
            "\nrip            0x100000            0x100000 <guest_start>", "\neflags         0x2                 [ IOPL=0 ]",
            "\ncs             0x8 ", "\nss             0x10 ", "\nfs_base        0x0 ", "\ngs_base        0x0 ",
            "\nk_gs_base      0x0 ", "\ncr0            0x80010033          [ PE MP ET NE WP PG ]", "\ncr2            0x0 ",
            "\ncr3            0x10000 ", "\ncr4            0x620               [ PAE OSFXSR OSXMMEXCPT ]", "\ncr8            0x0 ",
            "\nefer           0xd00               [ LME LMA NXE ]", "\nst0            0 ", "\nfctrl          0x37f ",
            "\nftag           0xffff ", "\nxmm0           {", "v4_float", "\nymm15          {", "v8_float",
            "\nmxcsr          0x1f80              [ IM DM ZM OM UM PM RC=0 ]", "Thread 1 (vCPU)",
            "0x0000000000000000 0x8000000000000000 rw nocache", "0x8000000000000000 0x10000000000000000 rw nocache", 'currently "none"')

    def test_32_bit(self):
        text = gdb(self.server("32", "guest32"), "info registers", "break spoil", "continue", "backtrace", "x/2i $pc",
                   "watch nodes[1].next", "reverse-continue", "p $xmm7.v4_int32", "p $ymm7.v8_int32", symbols="guest32.elf")
        self.assert_clean(text)
        self.assert_in_order(
            text, "\neax            0x0 ", "\nesp            0x1ff000 ", "\neip            0x100000            0x100000 <guest_start>",
            "\ncr0            0x31                [ PE ET NE ]", "\nefer           0x0                 [ ]", "Breakpoint 1, spoil ()",
            "#1 ", "in guest_main ()", "#2 ", "in guest_start ()", "=> 0x", "<spoil+3>:\t", "Hardware watchpoint 2: nodes[1].next", "in build ()",
            "$1 = {0, 0, 0, 0}", "$2 = {0, 0, 0, 0, 0, 0, 0, 0}")

    def test_16_bit(self):
        text = gdb(self.server("16", "guest16"), "x/3i $cs*16+$eip", "break *0x10020", "continue", "p/x $ax", "p/x $bx",
                   "x/2i $cs*16+$eip", "x/hx 0x30100", "x/hx 0x30102", "reverse-stepi", "p $eip < 0x20", "stepi", "reverse-continue", "p $eip",
                   "watch *(short*)0x30102", "continue", "continue", "set architecture i386", "x/1i $cs*16",
                   "set architecture auto", "x/1i $cs*16")
        self.assert_in_order(
            text, "0x10000:\tmov    $0x1234,%ax", "0x10003:\tmov    %ax,0x100", "Program received signal SIGTRAP", "0x00000020 in",
            "$1 = 0x1235", "$2 = 0x1234", "0x10020:\thlt", "0x30100:\t0x1234", "0x30102:\t0x0003", "$3 = 1", "0x00000020 in",
            "No more reverse-execution history", "$4 = (void (*)()) 0x0", "Old value = 0", "New value = 1", "Old value = 1",
            "New value = 2", '"i386"', "mov    $0xa31234,%eax", "mov    $0x1234,%ax")
        self.assertNotIn("rejected", text)

    def test_the_descriptions_are_well_formed(self):
        for mode, image in (("64", "guest64"), ("32", "guest32"), ("16", "guest16")):
            with self.server(mode, image).connect() as s:
                reply = ask(s, "qXfer:features:read:target.xml:0,fff")
                text, offset = b"", 0
                while True:
                    part = self.expand(reply)
                    text += part[1:]
                    if part[:1] == b"l":
                        break
                    reply = ask(s, "qXfer:features:read:target.xml:%x,fff" % len(text))
                description = xml.dom.minidom.parseString(text)
                numbers = [int(r.getAttribute("regnum")) for r in description.getElementsByTagName("reg")]
                self.assertEqual(numbers, list(range(len(numbers))))

    @staticmethod
    def expand(data):
        out = bytearray()
        i = 0
        while i < len(data):
            if data[i:i + 1] == b"*":
                i += 1
                out += out[-1:] * (data[i] - 29)
            else:
                out += data[i:i + 1]
            i += 1
        return bytes(out)


class Recorded(GdbCase):
    def test_breakpoints_and_steps_in_both_directions(self):
        text = gdb(self.server(), "x/i $pc", "break spoil", "hbreak count", "continue", "echo [A]\\n", "continue", "backtrace",
                   "p counter", "reverse-stepi", "stepi", "echo [B]\\n", "delete", "reverse-finish", "echo [C]\\n", "reverse-next",
                   "next", "step", "info symbol $pc", "finish", "echo [D]\\n", "until", symbols="guest64.elf")
        self.assert_clean(text)
        self.assert_in_order(
            text, "=> 0x100000 <guest_start>:\tcall", "Hardware assisted breakpoint 2", "Breakpoint 2, ",
            "[A]", "Breakpoint 1, ", "#0  spoil ()", "#1  ", "in guest_main ()", "$1 = 100", "Breakpoint 1, ", "[B]",
            "spoil();", "[C]", "count();", "spoil();", "spoil + 4 in section", "guest_main ()", "[D]")

    def test_history_has_two_ends(self):
        text = gdb(self.server(), "reverse-continue", "echo [A]\\n", "continue", "echo [B]\\n", "stepi", "echo [C]\\n",
                   "reverse-continue", "p $pc", symbols="guest64.elf")
        self.assert_clean(text)
        self.assertEqual(text.count("No more reverse-execution history."), 4)
        self.assert_in_order(text, "guest_start ()", "[A]", "guest_main ()", "[B]", "[C]", "guest_start ()", "<guest_start>")

    def test_watching_backwards_finds_who_spoiled_the_list(self):
        text = gdb(self.server(), "continue", "watch nodes[1].next", "reverse-continue", "info line", "reverse-continue",
                   "reverse-continue", symbols="guest64.elf")
        self.assert_clean(text)
        self.assert_in_order(
            text, "Old value = (struct node *) 0x", "<nodes+48>", "New value = (struct node *) 0x", "<nodes+32>", "spoil ()",
            "%d\t" % source_line("spoil"), "<nodes+32>", "New value = (struct node *) 0x0", "in build ()",
            "No more reverse-execution history.")

    def test_watching_forwards(self):
        text = gdb(self.server(), "watch odd[3]", "rwatch odd[3]", "awatch odd[7]", "continue", "continue", "continue",
                   symbols="guest64.elf")
        self.assert_clean(text)
        self.assert_in_order(text, "Hardware watchpoint 1: odd[3]", "Hardware read watchpoint 2: odd[3]",
                             "Hardware access (read/write) watchpoint 3: odd[7]", "Old value = 0 '\\000'", "New value = 97 'a'",
                             "Hardware read watchpoint 2: odd[3]", "Value = 97 'a'", "watchpoint 3: odd[7]", "New value = 97 'a'")

    def test_a_condition(self):
        line = source_line("count")
        text = gdb(self.server(), "break guest.c:%d if counter == 42" % line, "continue", "p counter", "reverse-continue", "delete",
                   "break guest.c:%d if counter == 7" % line, "continue", "p counter", symbols="guest64.elf")
        self.assert_in_order(text, "Breakpoint 1, count ()", "$1 = 42", "No more reverse", "Breakpoint 2, count ()", "$2 = 7")

    def test_every_step_back_undoes_one_step(self):
        """Forwards, then backwards: the same addresses in reverse order."""
        text = gdb(self.server(), "python\nseen = []\nfor i in range(300):\n  seen.append(int(gdb.parse_and_eval('$pc')))\n"
                   "  gdb.execute('stepi', to_string=True)\nback = []\nfor i in range(300):\n"
                   "  gdb.execute('reverse-stepi', to_string=True)\n  back.append(int(gdb.parse_and_eval('$pc')))\n"
                   "print('same' if back == seen[::-1] else 'different', len(set(seen)) > 30)\n", symbols="guest64.elf")
        self.assertIn("same True", text)

    def test_nothing_can_be_changed_and_the_user_is_told(self):
        text = gdb(self.server(), "p $rax = 5", "p counter = 1", "p counter", symbols="guest64.elf")
        self.assert_in_order(text, "Could not write register \"rax\"; remote failure reply 'E.a recording cannot be changed'",
                             "Cannot access memory at address", "$1 = 0")

    def test_memory_writes_can_be_forbidden_in_gdb_with_a_clearer_message(self):
        text = gdb(self.server(), "p counter = 1", symbols="guest64.elf", before=["set may-write-memory off"])
        self.assertIn("Writing to memory is not allowed", text)

    def test_physical_memory(self):
        text = gdb(self.server(), "maintenance packet Qqemu.PhyMemMode:1", "x/1wx 0x1100000", "x/1wx 0x100000",
                   "maintenance packet Qqemu.PhyMemMode:0", "x/1wx 0x1100000")
        self.assert_in_order(text, 'received: "OK"', "Cannot access memory", "0x100000", 'received: "OK"', "0x1100000:\t0x")

    def test_monitor(self):
        text = gdb(self.server(), "monitor help", "monitor when", "monitor nonsense", "monitor long 50000", "echo \\n[A]\\n",
                   "monitor goto 100", "maintenance flush register-cache", "p $pc", "stepi", "monitor when", symbols="guest64.elf")
        self.assert_in_order(text, "when, goto N", "description [auto|", "step 0 of", 'there is no command "nonsense"',
                             "abcdefghijklmnopqrstuvwxyz" * 1900, "[A]", "step 100 of", "$1 = ", "step 101 of")
        self.assertNotIn("$1 = (void (*)()) 0x100000 ", text)

    def test_a_hook_makes_gdb_look_again_after_monitor(self):
        text = gdb(self.server(), "monitor goto 100", "p $pc", symbols="guest64.elf",
                   before=["python gdb.execute('define hookpost-monitor\\nmaintenance flush register-cache\\n"
                           "maintenance flush dcache\\nend')"])
        self.assert_in_order(text, "step 100 of", "$1 = ")
        self.assertNotIn("<guest_start>\n", text[text.index("$1 = "):])

    def test_detach_and_reconnect(self):
        server = self.server("64", "guest64", None, "clients", "3")
        text = gdb(server, "break spoil", "continue", "detach", "target remote " + server.name, "backtrace 1", "disconnect",
                   "target remote " + server.name, "reverse-stepi", "kill", symbols="guest64.elf")
        self.assert_clean(text)
        self.assert_in_order(text, "Breakpoint 1, spoil ()", "detached]", "#0  spoil ()", "killed]")
        self.assertEqual([server.wait_for("end:") for _ in range(3)], ["end: detached", "end: disconnected", "end: killed"])

    def test_tcp(self):
        text = gdb(self.server("64", "guest64", "127.0.0.1:0"), "stepi", "info registers rip", symbols="guest64.elf")
        self.assert_in_order(text, "guest_main ()", "rip ")

    def test_with_acknowledgements(self):
        text = gdb(self.server(), "stepi", "reverse-stepi", "monitor when", symbols="guest64.elf",
                   before=["set remote noack-packet off"])
        self.assert_in_order(text, "guest_main ()", "guest_start ()", "step 0 of")

    def test_quit_detaches(self):
        server = self.server()
        gdb(server, "stepi", "quit")
        self.assertEqual(server.wait_for("end:"), "end: detached")


class CtrlC(GdbCase):
    def interrupt(self, server, *commands):
        process = start_gdb(server, *commands, symbols="live64.elf")
        self.addCleanup(process.kill)
        for command in commands:
            if command in ("continue", "reverse-continue"):
                server.wait_for("running")
                process.send_signal(signal.SIGINT)
        return process.communicate(timeout=60)[0]

    def test_forwards_and_then_again(self):
        text = self.interrupt(self.server("64", "live64", None, "live"), "continue", "p (int)live_counter > 0", "continue", "x/i $pc")
        self.assertEqual(text.count("Program received signal SIGINT"), 2)
        self.assert_in_order(text, "$1 = 1", "<guest_start")

    def test_backwards(self):
        text = self.interrupt(self.server("64", "live64", None, "live", "spin"), "continue")
        self.assertIn("Program received signal SIGINT", text)
        server = self.server("64", "guest64", None, "spin")
        process = start_gdb(server, "reverse-continue", symbols="guest64.elf")
        server.wait_for("running")
        process.send_signal(signal.SIGINT)
        self.assertIn("Program received signal SIGINT", process.communicate(timeout=60)[0])


class Live(GdbCase):
    def test_registers_and_memory_are_written(self):
        text = gdb(self.server("64", "live64", None, "live"), "p $rax = 0x1122334455667788", "p $eflags = 0x41", "p $eflags",
                   "p $xmm3.uint128 = 5", "p $ymm3.v8_int32", "p $cs = 0", "p *(long *)&live_counter = 41", "stepi", "p (int)live_counter",
                   "p $pc = 0x100000", "break guest_loop", "continue", "p (int)live_counter", "p $st0 = 1.5", "p $ax",
                   symbols="live64.elf", before=["set language c"])
        self.assert_in_order(text, "$1 = 1234605616436508552", "[ CF ZF IOPL=0 ]", "= {5, 0, 0, 0, 0, 0, 0, 0}",
                             "segment registers cannot be changed by a debugger", "= 42", "Breakpoint 1, ", "= 43", "= 1.5",
                             "= 30600")

    def test_a_live_target_does_not_go_back(self):
        text = gdb(self.server("64", "live64", None, "live"), "reverse-stepi", symbols="live64.elf")
        self.assertIn("Target remote does not support this command.", text)


class MachineInterface(GdbCase):
    """What an IDE does, such as the C/C++ extension of Visual Studio Code."""

    def test_a_session(self):
        server = self.server("64", "guest64", "127.0.0.1:0")
        text = self.session([
            "-enable-pretty-printing", "-gdb-set mi-async on", "-file-exec-and-symbols " + guest("guest64.elf"),
            "-target-select remote " + server.name, "-list-target-features", "-break-insert spoil", "-exec-continue",
            "-stack-list-frames", "-exec-step-instruction --reverse", "-exec-next", "-break-delete 1",
            "-break-watch nodes[1].next", "-exec-continue --reverse", "-exec-continue --reverse", "-exec-continue --reverse",
            "-data-list-register-values x 16", '-interpreter-exec console "monitor goto 7"', "-thread-info", "-target-detach",
            "-gdb-exit"])
        self.assertNotIn("^error", text)
        self.assert_in_order(
            text, "^connected", '"reverse"', 'reason="breakpoint-hit"', 'func="spoil"', 'func="guest_main"',
            'reason="end-stepping-range"', 'reason="watchpoint-trigger"', 'func="build"', "No more reverse-execution history",
            'value="0x100000"', "step 7 of", 'target-id="Thread 1"', "^done", "^exit")

    def session(self, commands):
        """Sends each command when the one before is done: its result has come, and the stop that it leads to."""
        process = subprocess.Popen(["gdb", "-nx", "-q", "--interpreter=mi2"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        timer = threading.Timer(60, process.kill)
        timer.start()
        text = ""
        for command in commands:
            process.stdin.write(command + "\n")
            process.stdin.flush()
            wanted = "*stopped" if command.startswith("-exec") else "^"
            for line in process.stdout:
                text += line
                if line.startswith(wanted) or line.startswith("^error"):
                    break
        text += process.communicate()[0]
        timer.cancel()
        return text


if __name__ == "__main__":
    if not shutil.which("gdb"):
        print("gdb is not installed")
        sys.exit(77)
    main()
