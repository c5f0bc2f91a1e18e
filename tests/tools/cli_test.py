#!/usr/bin/env python3
"""Drives the dejavm binary as a user does.

usage: cli_test.py DEJAVM EXAMPLES_FOLDER [unittest arguments, e.g. the name of a class]
"""
import fcntl
import json
import os
import pty
import re
import resource
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
import unittest

DEJAVM = ""
EXAMPLES = ""
COMMANDS = ["record", "replay", "verify", "debug", "gdbserver", "state", "info", "dump", "doctor", "help"]
TIMEOUT = 60
APPEND = 'exit=7 "quoted"'


def run(*arguments, **keywords):
    keywords.setdefault("stdin", subprocess.DEVNULL)
    return subprocess.run([DEJAVM, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=TIMEOUT, **keywords)


def a_second_of_work():
    """Arguments of record: a guest that computes for about a second."""
    return ["--engine=emu", "--append", "preemptions=100 rate=100", os.path.join(EXAMPLES, "preempt")]


class Case(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="dejavm-cli.")
        self.addCleanup(shutil.rmtree, self.folder)

    def path(self, name):
        return os.path.join(self.folder, name)

    def write(self, name, data):
        with open(self.path(name), "wb") as file:
            file.write(data)
        return self.path(name)

    def check(self, result, status):
        self.assertEqual(result.returncode, status, (result.args, result.stdout and result.stdout[-2000:], result.stderr[-3000:]))
        for line in result.stderr.decode().splitlines():
            self.assertTrue(line.startswith("dejavm: "), line)
        return result

    def usage(self, *arguments):
        result = self.check(run(*arguments, cwd=self.folder), 2)
        lines = result.stderr.decode().splitlines()
        self.assertEqual(len(lines), 2, lines)
        self.assertIn("--help", lines[1])
        self.assertEqual(result.stdout, b"")
        return lines[0]


class Help(Case):
    def test_overview_names_every_command(self):
        text = self.check(run("--help"), 0).stdout.decode()
        for command in COMMANDS:
            self.assertRegex(text, r"(?m)^  %s\s+\S" % command)
        self.assertEqual(run("-h").stdout.decode(), text)

    def test_each_command_explains_itself_in_three_ways(self):
        for command in COMMANDS:
            text = self.check(run(command, "--help"), 0).stdout.decode()
            self.assertTrue(text.startswith("usage: dejavm " + command), text)
            for heading in ("Options:", "Exit status:"):
                self.assertIn(heading, text)
            self.assertEqual(run("help", command).stdout.decode(), text)
            self.assertEqual(run(command, "-h").stdout.decode(), text)

    def test_help_fits_an_ordinary_terminal(self):
        for arguments in [["--help"]] + [[command, "--help"] for command in COMMANDS]:
            for line in run(*arguments).stdout.decode().splitlines():
                self.assertLessEqual(len(line), 90 if line.startswith("  dejavm") else 79, line)

    def test_help_wins_over_missing_arguments(self):
        self.check(run("record", "-m", "64M", "--help"), 0)

    def test_version_names_the_libraries(self):
        text = self.check(run("--version"), 0).stdout.decode()
        self.assertRegex(text, r"\Adejavm \d+\.\d+\.\d+( \(\S+\))?\nzstd \d+\.\d+\.\d+\nZydis \d+\.\d+\.\d+\n\Z")

    def test_output_that_cannot_be_written_is_a_failure(self):
        with open("/dev/full", "wb") as full:
            result = subprocess.run([DEJAVM, "--help"], stdout=full, stderr=subprocess.PIPE, timeout=TIMEOUT)
        self.assertEqual(result.returncode, 1)
        self.assertIn(b"No space left", result.stderr)


class Manual(Case):
    def lint(self, page):
        return subprocess.run(["groff", "-man", "-Tutf8", "-ww", "-z", page], stderr=subprocess.PIPE, timeout=TIMEOUT)

    def test_pages_have_no_warnings_and_all_options(self):
        for command in [None] + [c for c in COMMANDS if c != "help"]:
            source = self.check(run("--man", *([command] if command else [])), 0).stdout
            page = self.write("page.1", source)
            self.assertEqual(self.lint(page).stderr, b"", command)
            shown = subprocess.run(["man", "--warnings", "-l", page], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   timeout=TIMEOUT, env={**os.environ, "MANWIDTH": "100", "LC_ALL": "C", "MANPAGER": "cat"})
            self.assertEqual((shown.returncode, shown.stderr), (0, b""), command)
            text = re.sub(".\b", "", shown.stdout.decode())
            if command:
                for option in re.findall(r"(?m)^ +(?:-., )?(--[a-z-]+)", run(command, "--help").stdout.decode()):
                    self.assertIn(option, text)

    def test_a_broken_page_would_be_noticed(self):
        self.assertNotEqual(self.lint(self.write("page.1", b".TH A 1\n.SH NAME\n\\fX\n.nosuchmacro\n")).stderr, b"")

    def test_completion_completes(self):
        script = self.write("completion", self.check(run("--completion"), 0).stdout)

        def complete(*words):
            body = 'source %s; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _dejavm; echo "${COMPREPLY[@]}"' % script
            return subprocess.run(["bash", "-c", body, "bash", *words], stdout=subprocess.PIPE, check=True,
                                  timeout=TIMEOUT).stdout.decode().split()

        self.assertEqual(complete("dejavm", "rec"), ["record"])
        self.assertEqual(complete("dejavm", "record", "--eng"), ["--engine"])
        self.assertEqual(complete("dejavm", "record", "--engine", "k"), ["kvm"])


class Usage(Case):
    def test_commands(self):
        self.usage()
        self.assertIn("'record'", self.usage("recrod"))
        self.usage("--nonsense")
        self.usage("help", "nonsense")
        self.usage("--man", "nonsense")

    def test_options(self):
        for command in COMMANDS:
            self.assertIn("nonsense", self.usage(command, "--nonsense"))
            self.assertIn("'-Z'", self.usage(command, "-Z"))
        self.assertIn("--engine", self.usage("record", "--engin", "kvm", "x"))
        self.assertIn("no value", self.usage("state", "--json=yes", "x"))
        self.assertIn("needs a value", self.usage("record", "x", "--engine"))
        self.assertIn("needs a value", self.usage("record", "x", "-o"))
        self.assertIn("more than", self.usage("state", "x", *["--json"] * 65))

    def test_arguments(self):
        for command in ("replay", "verify", "debug", "gdbserver", "state", "info", "dump"):
            self.assertIn("TRACE", self.usage(command))
            self.assertIn("unexpected", self.usage(command, "a", "b"))
        self.assertIn("GUEST", self.usage("record"))
        self.assertIn("unexpected", self.usage("doctor", "a"))

    def test_values(self):
        for size in ("0", "12Q", "", "-1", "1M1", "65G", "4095", "1048577", "16777216T", "99999999999999999999", "1__0M", "_1M"):
            self.assertIn("--memory", self.usage("record", "--memory=" + size, "x"))
        for seconds in ("0", "x", "-1", "", "1e3", "1.", ".5", "1000000001", "0.0"):
            self.assertIn("--timeout", self.usage("record", "--timeout=" + seconds, "x"))
        for steps in ("0", "x", "", "18446744073709551616", "0x", "1,,0"):
            self.assertIn("--max-steps", self.usage("record", "--max-steps=" + steps, "x"))
        self.assertIn("--engine", self.usage("record", "--engine=qemu", "x"))
        self.assertIn("--max-steps", self.usage("record", "--engine=kvm", "--max-steps=1", "x"))
        for position in ("", "x", "101%", "-1", "%", "1s%", "ends", "18446744073709551615", "1__0"):
            for command, option in (("replay", "until"), ("state", "at"), ("dump", "from"), ("dump", "to"),
                                    ("debug", "at"), ("gdbserver", "at")):
                self.assertIn("--" + option, self.usage(command, "--%s=%s" % (option, position), "x"))
        for memory in ("", "rsp", ":", "rsp:", ":8", "rsp:0", "rsp:17M", "phys:1", "phys::1", "1:x"):
            self.assertIn("--mem", self.usage("state", "--mem", memory, "x"))
        for command in ("debug", "gdbserver"):
            self.assertIn("--memory", self.usage(command, "--memory=0", "x"))
            self.assertIn("--live", self.usage(command, "--engine=emu", "x"))
        self.assertIn("--listen", self.usage("gdbserver", "--stdio", "--listen=:0", "x"))
        for disk in ("", ",ro", ",write-through,ro"):
            self.assertIn("names no file", self.usage("record", "--disk", disk, "x"))
        self.assertIn("read-only", self.usage("record", "--disk", "x,ro,write-through", "x"))
        self.assertIn("more than 16 disks", self.usage("record", *["--disk=y"] * 17, "x"))
        self.assertIn("--console", self.usage("record", "--console=tty", "x"))
        self.assertIn("--machine pc", self.usage("record", "--console=virtio", "--machine=minimal", "x"))
        self.assertIn("empty", self.usage("record", ""))
        self.assertIn("empty", self.usage("record", "-o", "", "x"))


class Files(Case):
    def test_missing_files(self):
        for command in ("replay", "verify", "state", "info", "dump"):
            self.assertIn("nosuch.dvm", self.check(run(command, "nosuch.dvm", cwd=self.folder), 1).stderr.decode())
        result = self.check(run("record", "nosuch.elf", cwd=self.folder), 1)
        self.assertIn("nosuch.elf", result.stderr.decode())
        self.assertEqual(os.listdir(self.folder), [])

    def test_missing_file_after_two_dashes(self):
        self.assertIn("--help", self.check(run("info", "--", "--help", cwd=self.folder), 1).stderr.decode())

    def test_what_is_no_trace_is_damaged(self):
        for data in (b"", b"x", b"#!/bin/sh\n" * 1000, b"\0" * 100000, os.urandom(10000)):
            self.write("bad.dvm", data)
            for command in ("replay", "verify", "state", "info", "dump"):
                self.check(run(command, "bad.dvm", cwd=self.folder), 4)

    def test_folders_are_no_traces(self):
        for command in ("replay", "verify", "state", "info", "dump"):
            self.assertIn(run(command, self.folder).returncode, (1, 4))
        self.check(run("record", self.folder, cwd=self.folder), 1)

    def test_what_is_no_guest(self):
        self.write("guest", b"#!/bin/sh\n")
        text = self.check(run("record", "guest", cwd=self.folder), 1).stderr.decode()
        self.assertRegex(text, r"(?i)elf")
        self.assertEqual(os.listdir(self.folder), ["guest"])

    def test_what_is_no_file(self):
        self.write("empty", b"")
        os.mkfifo(self.path("pipe"))
        for guest in ("empty", "pipe", "/dev/zero", "/dev/null"):
            result = self.check(run("record", "-o", "a.dvm", guest, cwd=self.folder), 1)
            self.assertIn(guest, result.stderr.decode())
        result = self.check(run("record", "--force", "-o", "pipe", os.path.join(EXAMPLES, "hello"), cwd=self.folder), 1)
        self.assertIn("not a regular file", result.stderr.decode())
        self.assertEqual(sorted(os.listdir(self.folder)), ["empty", "pipe"])

    def test_no_file_is_overwritten_unasked(self):
        guest = os.path.join(EXAMPLES, "hello")
        self.write("precious.dvm", b"precious")
        result = self.check(run("record", "-o", "precious.dvm", guest, cwd=self.folder), 1)
        self.assertIn("--force", result.stderr.decode())
        shutil.copy(guest, self.path("guest"))
        for name in ("guest", "./guest"):
            result = self.check(run("record", "--force", "-o", name, "guest", cwd=self.folder), 1)
            self.assertIn("inputs", result.stderr.decode())
        with open(self.path("precious.dvm"), "rb") as file:
            self.assertEqual(file.read(), b"precious")
        self.assertEqual(os.path.getsize(self.path("guest")), os.path.getsize(guest))


class Doctor(Case):
    def test_text_and_json_agree(self):
        found = json.loads(self.check(run("doctor", "--json"), 0).stdout)
        text = self.check(run("doctor"), 0).stdout.decode()
        self.assertTrue(found["memory"]["works"])
        self.assertTrue(found["emulator"]["works"], found["emulator"])
        self.assertIn(found["engine"], ("kvm", "emu"))
        self.assertEqual(found["engine"] == "kvm", "will use KVM" in text)
        for probe in found["kvm_probes"]:
            self.assertIn(probe["result"], ("yes", "no", "unknown"))
            self.assertIn(probe["title"], text)


class Recorded(Case):
    """A trace of examples/hello, made once."""

    @classmethod
    def setUpClass(cls):
        cls.shared = tempfile.mkdtemp(prefix="dejavm-cli.")
        cls.addClassCleanup(shutil.rmtree, cls.shared)
        cls.trace = os.path.join(cls.shared, "hello.dvm")
        cls.recording = run("record", os.path.join(EXAMPLES, "hello"), "--append", APPEND, cwd=cls.shared)
        if cls.recording.returncode:
            raise AssertionError(cls.recording)

    def state(self, *arguments):
        return json.loads(self.check(run("state", self.trace, "--json", *arguments), 0).stdout)

    def info(self, path=None):
        return json.loads(self.check(run("info", "--json", path or self.trace), 0).stdout)


class EndToEnd(Recorded):
    def test_record_says_how_it_ended_and_seals(self):
        text = self.recording.stderr.decode()
        self.assertRegex(text, r"guest ended: debug-exit status 7")
        self.assertRegex(text, r"engine: (kvm|emu)")
        self.assertRegex(text, r"trace: hello\.dvm, [1-9][\d.]+ KiB, [1-9]\d* events")
        self.assertRegex(text, r"sealed in .*: replayed exactly, [\d,]+ steps")
        self.assertNotIn("\r", text)
        self.assertIn(b"hello", self.recording.stdout.lower())

    def test_exit_code_is_the_guests(self):
        for status in (0, 7, 255):
            self.check(run("record", "--exit-code", "-f", "-o", self.path("a.dvm"), "--append", "exit=%d" % status,
                           os.path.join(EXAMPLES, "hello")), status)

    def test_replay_prints_the_same_bytes(self):
        result = self.check(run("replay", self.trace), 0)
        self.assertEqual(result.stdout, self.recording.stdout)
        self.assertIn("exact", result.stderr.decode())
        quiet = self.check(run("replay", "--quiet", self.trace), 0)
        self.assertEqual((quiet.stdout, quiet.stderr), (b"", b""))

    def test_replay_until_prints_a_part(self):
        half = self.check(run("replay", self.trace, "--until", "50%"), 0).stdout
        self.assertTrue(self.recording.stdout.startswith(half))
        none = self.check(run("replay", self.trace, "--until=0"), 0).stdout
        self.assertEqual(none, b"")
        self.check(run("replay", self.trace, "--until", "99_999_999_999"), 1)

    def test_replay_tells_where_the_time_went(self):
        table = self.check(run("replay", "--profile", self.trace), 0)
        self.assertEqual(table.stdout, self.recording.stdout)
        self.assertIn("where the time went", table.stderr.decode())
        start = time.monotonic_ns()
        result = self.check(run("replay", "--profile", "--json", self.trace), 0)
        elapsed = time.monotonic_ns() - start
        profile = json.loads(result.stdout)
        parts = {part["name"]: part for part in profile["parts"]}
        info = json.loads(self.check(run("info", "--json", self.trace), 0).stdout)
        self.assertEqual(sum(part["ns"] for part in profile["parts"]), profile["whole_ns"])
        self.assertLess(profile["whole_ns"], elapsed)
        self.assertGreater(parts["execute"]["ns"], 0)
        self.assertEqual(parts["read"]["events"], info["events"])
        self.assertGreater(parts["crossings"]["accesses"], 0)
        emulator = profile["emulator"]
        self.assertGreater(emulator["decode_ns"], 0)
        self.assertGreater(emulator["translate_ns"], 0)
        self.assertLess(emulator["decode_ns"] + emulator["translate_ns"], profile["whole_ns"])
        self.assertGreater(emulator["decoded"], emulator["decoded_anew"])
        self.assertRegex(table.stderr.decode(), r"time that decoding took +\d")
        self.usage("replay", "--json", self.trace)

    def test_verify_prints_one_line(self):
        result = self.check(run("verify", self.trace), 0)
        self.assertRegex(result.stdout.decode(), r"\A\S+hello\.dvm: exact: [\d,]+ steps, .*end: debug-exit status \d+\n\Z")
        self.assertEqual(result.stderr, b"")

    def test_info_describes_the_recording(self):
        info = self.info()
        self.assertTrue(info["sealed"])
        self.assertFalse(info["cut_short"])
        self.assertEqual(info["end"]["kind"], "debug-exit")
        self.assertEqual(info["recording"]["command_line"], APPEND)
        self.assertEqual(info["recording"]["ram_bytes"], 128 << 20)
        self.assertEqual(info["file"]["bytes"], os.path.getsize(self.trace))
        self.assertEqual(info["console_bytes"], len(self.recording.stdout))
        self.assertEqual(sum(info["events_by_type"].values()), info["events"])
        parts = sum(info["file"][k] for k in info["file"] if k.startswith("bytes_"))
        self.assertLessEqual(parts, info["file"]["bytes"])
        text = self.check(run("info", self.trace), 0).stdout.decode()
        self.assertIn(APPEND, text)
        self.assertRegex(text, r"sealed +yes")

    def test_dump_lists_every_event(self):
        info = self.info()
        events = json.loads(self.check(run("dump", self.trace, "--json"), 0).stdout)["events"]
        self.assertEqual([e["index"] for e in events], list(range(info["events"])))
        positions = [e["position"] for e in events]
        self.assertEqual(positions, sorted(positions))
        self.assertEqual(events[-1]["type"], "end")
        console = b"".join(bytes.fromhex(e["data"]) for e in events if e["type"] == "console")
        self.assertEqual(console, self.recording.stdout)
        lines = self.check(run("dump", self.trace), 0).stdout.decode().splitlines()
        self.assertEqual(len(lines), info["events"] + 1)

    def test_dump_of_a_range(self):
        events = json.loads(run("dump", self.trace, "--json").stdout)["events"]
        middle = events[len(events) // 2]["position"]
        tail = json.loads(self.check(run("dump", self.trace, "--json", "--from", str(middle)), 0).stdout)["events"]
        head = json.loads(self.check(run("dump", self.trace, "--json", "--to", str(middle)), 0).stdout)["events"]
        self.assertEqual(tail, [e for e in events if e["position"] >= middle])
        self.assertEqual(head, [e for e in events if e["position"] <= middle])
        nothing = json.loads(self.check(run("dump", self.trace, "--json", "--from", "99999999999"), 0).stdout)["events"]
        self.assertEqual(nothing, [])

    def test_dump_into_a_reader_that_stops(self):
        pipe = subprocess.run('"%s" dump "%s" | head -n 1; echo "${PIPESTATUS[0]}"' % (DEJAVM, self.trace), shell=True,
                              executable="/bin/bash", stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=TIMEOUT)
        self.assertEqual(pipe.stdout.decode().splitlines()[1], "0")
        self.assertEqual(pipe.stderr, b"")

    def test_state_is_the_same_however_it_is_written(self):
        end = self.info()["seal"]["end_position"]
        self.assertEqual(self.state()["position"], end)
        self.assertEqual(self.state("--at", "end"), self.state("--at", "{:_}".format(end)))
        self.assertEqual(self.state("--at", "{:,}".format(end)), self.state("--at", hex(end)))
        self.assertEqual(self.state("--at", "100%"), self.state("--at=end"))
        self.assertEqual(self.state()["ram_digest"], self.info()["seal"]["end_ram_digest"])
        self.check(run("state", self.trace, "--at", str(end + 1)), 1)

    def test_state_moves_with_the_position(self):
        first, second = self.state("--at=0"), self.state("--at=1")
        self.assertNotEqual(first["registers"]["rip"], second["registers"]["rip"])
        self.assertEqual(first["mode"], "64-bit mode")
        self.assertEqual(first["segments"]["cs"]["selector"], 0x10)
        text = self.check(run("state", self.trace, "--at=0"), 0).stdout.decode()
        self.assertIn("rip  %016x" % first["registers"]["rip"], text)
        self.assertIn(first["instruction"], text)
        self.assertIn("ram digest " + first["ram_digest"], text)

    def test_memory_is_shown_in_every_way_to_name_it(self):
        rip = self.state("--at=0")["registers"]["rip"]
        ranges = self.state("--at=0", "--mem", "%d:16" % rip, "--mem", "phys:%#x:16" % rip, "--mem", "rip:16")["memory"]
        self.assertEqual([r["space"] for r in ranges], ["virtual", "physical", "virtual"])
        self.assertEqual(len({r["lines"][0] for r in ranges}), 1)
        self.assertRegex(ranges[0]["lines"][0], r"\A[0-9a-f]{32}\Z")
        text = self.check(run("state", self.trace, "--at=0", "--mem=rip:20"), 0).stdout.decode()
        self.assertRegex(text, r"(?m)^%016x  [0-9a-f ]+\|.{16}\|$" % rip)

    def test_memory_that_is_not_there(self):
        unmapped = self.state("--mem", "0xffff800000000000:4")["memory"][0]
        self.assertEqual(unmapped["lines"], ["????????"])
        edge = self.state("--mem", "phys:%d:16" % ((128 << 20) - 8))["memory"][0]
        self.assertRegex(edge["lines"][0], r"\A[0-9a-f]{16}\?{16}\Z")
        self.assertIn("nosuchsymbol", self.check(run("state", self.trace, "--mem", "nosuchsymbol:4"), 1).stderr.decode())

    def test_cut_traces_and_damaged_traces(self):
        with open(self.trace, "rb") as file:
            data = file.read()
        for part in (0.3, 0.6, 0.9):
            cut = self.write("cut.dvm", data[:int(len(data) * part)])
            for command in ("info", "verify", "replay", "dump", "state"):
                self.assertIn(run(command, cut).returncode, (0, 4), (command, part))
        broken = bytearray(data)
        for i in range(len(broken) // 3, len(broken) // 3 + 64):
            broken[i] ^= 0xff
        self.check(run("verify", self.write("broken.dvm", bytes(broken))), 4)


class Unsealed(Case):
    def setUp(self):
        super().setUp()
        self.trace = self.path("hello.dvm")
        self.guest = os.path.join(EXAMPLES, "hello")
        self.recording = self.check(run("record", "--no-seal", self.guest, cwd=self.folder), 0)

    def is_sealed(self):
        return json.loads(run("info", "--json", self.trace).stdout)["sealed"]

    def test_info_does_not_seal_and_the_others_do(self):
        self.assertFalse(self.is_sealed())
        with open(self.trace, "rb") as file:
            raw = file.read()
        for command in ("verify", "replay", "state", "dump"):
            self.write("hello.dvm", raw)
            self.assertFalse(self.is_sealed())
            self.check(run(command, self.trace), 0)
            self.assertTrue(self.is_sealed(), command)

    def test_sealing_that_is_killed_leaves_a_trace_that_can_be_sealed(self):
        trace = self.path("long.dvm")
        self.check(run("record", "--no-seal", "-o", trace, *a_second_of_work()), 0)
        unsealed = os.stat(trace).st_size
        killed, grown = 0, 0
        for i in range(8):
            process = subprocess.Popen([DEJAVM, "verify", trace], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                       stderr=subprocess.PIPE)
            time.sleep(0.05 + 0.06 * i)
            process.kill()
            process.communicate()
            killed += process.returncode == -signal.SIGKILL
            grown += os.stat(trace).st_size > unsealed
            self.check(run("info", trace), 0)
        self.assertGreater(killed, 3)
        self.assertGreater(grown, 0)  # else sealing had written nothing yet
        self.check(run("verify", trace), 0)
        self.assertTrue(json.loads(run("info", "--json", trace).stdout)["sealed"])

    def test_a_trace_that_cannot_be_written_is_used_as_it_is(self):
        os.chmod(self.trace, 0o444)
        os.chmod(self.folder, 0o755)
        program = shutil.copy(DEJAVM, self.path("dejavm"))
        other_user = {"user": 65534} if os.geteuid() == 0 else {}  # root may write everything

        def run_here(*arguments):
            return self.check(subprocess.run([program, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                             stderr=subprocess.PIPE, timeout=TIMEOUT, cwd="/", **other_user), 0)

        result = run_here("replay", self.trace)
        self.assertEqual(result.stdout, self.recording.stdout)
        self.assertIn("not sealed", result.stderr.decode())
        self.assertIn("exact", run_here("verify", self.trace).stdout.decode())
        unsealed = run_here("state", "--json", self.trace, "--at", "50%").stdout
        unsealed_end = run_here("state", "--json", self.trace).stdout
        events = len(run_here("dump", self.trace).stdout.splitlines())
        self.assertFalse(self.is_sealed())
        os.chmod(self.trace, 0o644)
        self.assertEqual(self.check(run("state", "--json", self.trace, "--at", "50%"), 0).stdout, unsealed)
        self.assertEqual(self.check(run("state", "--json", self.trace), 0).stdout, unsealed_end)
        self.assertEqual(len(run("dump", self.trace).stdout.splitlines()), events)

    def test_force_replaces(self):
        self.check(run("record", self.guest, cwd=self.folder), 1)
        self.check(run("record", "--force", self.guest, cwd=self.folder), 0)
        self.assertTrue(self.is_sealed())


class Recording(Case):
    """How recordings end; examples/echo waits for input."""

    def start(self, *arguments, **keywords):
        keywords.setdefault("stdin", subprocess.PIPE)
        process = subprocess.Popen([DEJAVM, "record", "-o", self.path("a.dvm"), *arguments, os.path.join(EXAMPLES, "echo")],
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, **keywords)
        self.addCleanup(process.kill)
        return process

    def wait_for_output(self, process):
        self.assertTrue(select.select([process.stdout], [], [], TIMEOUT)[0])
        return os.read(process.stdout.fileno(), 65536)

    def finish(self, process, status):
        output, errors = process.communicate(timeout=TIMEOUT)
        self.assertEqual(process.returncode, status, errors)
        return output, errors.decode()

    def test_stopped_by_a_signal(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            process = self.start("--force")
            self.wait_for_output(process)
            process.send_signal(number)
            _, errors = self.finish(process, 0)
            self.assertIn("stopped by the user", errors)
            self.assertIn("sealed in", errors)
            self.check(run("verify", self.path("a.dvm")), 0)

    def test_exit_code_of_a_stopped_recording(self):
        process = self.start("--exit-code")
        self.wait_for_output(process)
        process.send_signal(signal.SIGINT)
        self.finish(process, 130)

    def test_timeout(self):
        process = self.start("--timeout", "0.5", "--exit-code")
        start = time.monotonic()
        _, errors = self.finish(process, 124)
        self.assertIn("timeout", errors)
        self.assertGreater(time.monotonic() - start, 0.4)

    def test_steps(self):
        result = self.check(run("record", "--max-steps", "1_000", "--exit-code", "-o", self.path("a.dvm"),
                                os.path.join(EXAMPLES, "hello")), 124)
        self.assertIn(": 1,000 steps", result.stderr.decode())
        state = json.loads(self.check(run("state", "--json", self.path("a.dvm")), 0).stdout)
        self.assertEqual(state["position"], 1000)

    def test_the_limit_of_steps_is_exact_around_a_halt(self):
        """echo sleeps in HLT once it has printed its prompt; nobody types."""
        echo, trace = os.path.join(EXAMPLES, "echo"), self.path("a.dvm")
        self.check(run("record", "--engine=emu", "--timeout=0.3", "--no-seal", "-o", trace, echo), 0)
        events = json.loads(self.check(run("dump", "--json", trace), 0).stdout)["events"]
        halt = next(event["position"] for event in events if event["type"] == "halt")
        for steps in range(halt - 1, halt + 2):
            result = self.check(run("record", "--force", "--engine=emu", "--timeout=3", "--max-steps", str(steps), "-o", trace,
                                    echo), 0)
            self.assertIn("limit of steps reached", result.stderr.decode(), steps)
            self.assertEqual(json.loads(run("state", "--json", trace).stdout)["position"], steps)

    def test_events_are_in_the_file_within_250_ms(self):
        process = self.start("--timeout", "30", "--no-seal")
        self.wait_for_output(process)
        latencies, trace = [], self.path("a.dvm")
        for i in range(8):
            size = None
            while size != os.stat(trace).st_size:  # what came before is written
                size = os.stat(trace).st_size
                time.sleep(0.3 + 0.057 * i)
            process.stdin.write(b"x")
            process.stdin.flush()
            self.wait_for_output(process)
            start = time.monotonic()
            while os.stat(trace).st_size == size:
                time.sleep(0.002)
            latencies.append(time.monotonic() - start)
        process.send_signal(signal.SIGINT)
        self.finish(process, 0)
        self.assertLess(sorted(latencies)[-2], 0.26, latencies)  # one may be late on a busy host

    def test_a_file_as_input_is_read_as_fast_as_a_polling_guest_does(self):
        with open(self.path("input"), "wb") as file:
            file.write(b"x" * 5000 + b".")
        for engine in ("emu", "auto"):
            with open(self.path("input"), "rb") as file:
                result = self.check(run("record", "--force", "--engine", engine, "--timeout=10", "-o", self.path("a.dvm"),
                                        os.path.join(os.path.dirname(EXAMPLES), "tests", "poll"), stdin=file), 0)
            self.assertIn(b"debug-exit status 0", result.stderr)
            self.assertEqual(result.stdout, b"5000 characters\n")

    def test_serial_to_nowhere_and_to_a_file(self):
        hello = os.path.join(EXAMPLES, "hello")
        shown = self.check(run("record", "-o", self.path("1.dvm"), hello), 0).stdout
        self.assertEqual(self.check(run("record", "--serial=null", "-o", self.path("2.dvm"), hello), 0).stdout, b"")
        self.check(run("record", "--serial", self.path("log"), "-o", self.path("3.dvm"), hello), 0)
        with open(self.path("log"), "rb") as log:
            self.assertEqual(log.read(), shown)
        self.check(run("record", "--serial", "/nosuch/log", "-o", self.path("4.dvm"), hello), 1)
        self.assertFalse(os.path.exists(self.path("4.dvm")))

    def test_sleep_is_not_counted_as_overhead(self):
        result = run("record", "--engine=kvm", "--timeout=2", "-o", self.path("a.dvm"), os.path.join(EXAMPLES, "echo"))
        if result.returncode:
            self.skipTest("no KVM here")
        time_line = re.search(r"time: .* halted ([\d.]+) s, .* rest of dejavm ([\d.]+) (us|ms)", result.stderr.decode())
        self.assertTrue(time_line, result.stderr.decode())
        self.assertGreater(float(time_line.group(1)), 1.5)

    def test_a_reader_that_does_not_read_does_not_hold_up_the_end(self):
        guest = os.path.join(os.path.dirname(EXAMPLES), "tests", "hostile")
        for stop in ("--timeout=2", "--timeout=50"):
            process = subprocess.Popen([DEJAVM, "record", "--force", "--engine=emu", "--no-seal", stop, "--append", "mode=flood",
                                        "-o", self.path("a.dvm"), guest],
                                       stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            self.addCleanup(process.kill)
            fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, 4096)
            time.sleep(1)
            if stop == "--timeout=50":
                process.send_signal(signal.SIGINT)
            self.assertEqual(process.wait(timeout=10), 1)
            self.assertIn(b"the trace has all of it", process.stderr.read())
            process.stdout.close()
            process.stderr.close()
            self.check(run("verify", self.path("a.dvm")), 0)

    def test_memory_of_any_size(self):
        for size in ("2M", "3G", "3145732K", "64G"):  # the smallest that holds the guest, and around the gap below 4 GiB
            trace = self.path("memory.dvm")
            self.check(run("record", "--force", "-m", size, "-o", trace, os.path.join(EXAMPLES, "hello")), 0)
            self.check(run("verify", trace), 0)
        self.check(run("record", "-m", "1M", "-o", self.path("small.dvm"), os.path.join(EXAMPLES, "hello")), 1)
        self.assertFalse(os.path.exists(self.path("small.dvm")))

    def test_two_recorders_do_not_share_a_file(self):
        process = self.start("--timeout", "30", "--no-seal")
        self.wait_for_output(process)
        late = self.check(run("record", "--force", "-o", self.path("a.dvm"), os.path.join(EXAMPLES, "hello")), 1)
        self.assertIn(b"is being written by another process", late.stderr)
        process.send_signal(signal.SIGINT)
        self.finish(process, 0)
        self.check(run("verify", self.path("a.dvm")), 0)

    def test_closed_standard_streams_do_not_end_up_in_the_trace(self):
        guest = os.path.join(EXAMPLES, "hello")
        for closed in ((0,), (1,), (2,), (0, 1, 2)):
            trace = self.path("closed%d.dvm" % len(closed))
            close = lambda: [os.close(fd) for fd in closed]
            done = subprocess.run([DEJAVM, "record", "--force", "-o", trace, "--engine=emu", guest], preexec_fn=close,
                                  timeout=TIMEOUT)
            self.assertEqual(done.returncode, 0, closed)
            self.check(run("verify", trace), 0)

    def test_output_that_nobody_reads(self):
        read_end, write_end = os.pipe()
        os.close(read_end)
        result = subprocess.run([DEJAVM, "record", "-o", self.path("a.dvm"), os.path.join(EXAMPLES, "hello")],
                                stdin=subprocess.DEVNULL, stdout=write_end, stderr=subprocess.PIPE, timeout=TIMEOUT)
        os.close(write_end)
        self.check(result, 0)
        self.assertIn(b"closed by its reader", result.stderr)
        self.check(run("verify", self.path("a.dvm")), 0)

    def test_input_reaches_the_guest_and_the_trace(self):
        process = self.start("--timeout", "20")
        seen = self.wait_for_output(process)
        process.stdin.write(b"marmalade\r")
        process.stdin.flush()
        while b"marmalade" not in seen:
            seen += self.wait_for_output(process)
        process.send_signal(signal.SIGINT)
        output, _ = self.finish(process, 0)
        self.assertEqual(self.check(run("replay", self.path("a.dvm")), 0).stdout, seen + output)

    def test_a_full_disk_is_an_error_and_leaves_a_good_trace(self):
        process = self.start("--timeout", "30")
        seen = self.wait_for_output(process)
        size = 0
        while size == 0 or os.path.getsize(self.path("a.dvm")) != size:
            size = os.path.getsize(self.path("a.dvm"))
            time.sleep(0.6)  # the recorder writes several times a second
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, size))
        process.stdin.write(b"marmalade\r")
        process.stdin.flush()
        output, errors = self.finish(process, 1)
        self.assertIn("File too large", errors)
        self.assertIn("holds what was recorded", errors)
        self.check(run("verify", self.path("a.dvm")), 0)
        self.assertTrue(json.loads(run("info", "--json", self.path("a.dvm")).stdout)["cut_short"])
        replayed = self.check(run("replay", self.path("a.dvm")), 0).stdout
        self.assertTrue((seen + output).startswith(replayed), (seen, output, replayed))
        self.assertIn(b"Type something", replayed)

    def test_interrupted_sealing_leaves_a_good_trace(self):
        process = subprocess.Popen([DEJAVM, "record", "-o", self.path("a.dvm"), *a_second_of_work()],
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.addCleanup(process.kill)
        errors = b""
        while b"trace: " not in errors:
            errors += os.read(process.stderr.fileno(), 65536)
        process.send_signal(signal.SIGINT)
        output, rest = process.communicate(timeout=TIMEOUT)
        self.assertEqual(process.returncode, 0, rest)
        self.assertIn(b"sealing was interrupted", errors + rest)
        self.assertFalse(json.loads(run("info", "--json", self.path("a.dvm")).stdout)["sealed"])
        self.assertEqual(self.check(run("replay", self.path("a.dvm")), 0).stdout, output)
        self.assertTrue(json.loads(run("info", "--json", self.path("a.dvm")).stdout)["sealed"])

    def test_interrupted_replay_ends_like_other_programs(self):
        preempt = self.check(run("record", "--no-seal", "-o", self.path("a.dvm"), *a_second_of_work()), 0)
        self.assertIn(b"not sealed", preempt.stderr)
        process = subprocess.Popen([DEJAVM, "verify", self.path("a.dvm")], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.addCleanup(process.kill)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=TIMEOUT)
        self.assertEqual(process.returncode, -signal.SIGINT)
        self.check(run("verify", self.path("a.dvm")), 0)


class Terminal(Case):
    """On a pseudo-terminal."""

    def start(self, *arguments):
        pid, master = pty.fork()
        if pid == 0:
            os.execv(DEJAVM, [DEJAVM, *arguments])
        fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.addCleanup(os.close, master)
        return pid, master

    def read_until(self, master, what, seen=b""):
        deadline = time.monotonic() + TIMEOUT
        while what not in seen:
            self.assertLess(time.monotonic(), deadline, seen)
            if select.select([master], [], [], 1)[0]:
                try:
                    seen += os.read(master, 65536)
                except OSError:
                    self.fail(seen)
        return seen

    def end(self, pid, master, seen):
        """Reads what is left until the program closes the terminal; its exit status."""
        while True:
            try:
                data = os.read(master, 65536)
            except OSError:
                break
            if not data:
                break
            seen += data
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), seen

    def local_flags(self, master):
        return termios.tcgetattr(master)[3] & (termios.ICANON | termios.ECHO)

    def record_echo(self, *arguments):
        pid, master = self.start("record", "-o", self.path("a.dvm"), *arguments, os.path.join(EXAMPLES, "echo"))
        return pid, master

    def test_keys_go_to_the_guest_at_once(self):
        pid, master = self.record_echo()
        before = self.read_until(master, b"\n")
        deadline = time.monotonic() + TIMEOUT
        while self.local_flags(master) and time.monotonic() < deadline:
            time.sleep(0.01)
        self.assertEqual(self.local_flags(master), 0)
        os.write(master, b"marmalade\r")
        seen = self.read_until(master, b"marmalade", before)
        os.write(master, b"\x01x")
        status, seen = self.end(pid, master, seen)
        self.assertEqual(status, 0, seen)
        self.assertIn(b"stopped by the user", seen)

    def test_ctrl_c_stops_and_the_terminal_is_put_back(self):
        pid, master = self.record_echo()
        before = self.local_flags(master)
        seen = self.read_until(master, b"\n")
        os.write(master, b"\x03")
        seen = self.read_until(master, b"stopped by the user", seen)
        self.assertNotEqual(before, 0)
        self.assertEqual(self.local_flags(master), before)
        status, seen = self.end(pid, master, seen)
        self.assertEqual(status, 0, seen)

    def test_progress_is_drawn_and_cleared(self):
        self.check(run("record", "--no-seal", "-o", self.path("a.dvm"), *a_second_of_work()), 0)
        pid, master = self.start("verify", self.path("a.dvm"))
        status, seen = self.end(pid, master, b"")
        self.assertEqual(status, 0, seen)
        bars = re.findall(rb"\rsealing \[[#.]{24}\] +(\d+)%", seen)
        self.assertGreater(len(bars), 0, seen)
        self.assertEqual([int(b) for b in bars], sorted(int(b) for b in bars))
        self.assertRegex(seen, rb"\r\x1b\[K\S*a\.dvm: exact")

    def test_the_terminal_is_put_back_after_a_crash(self):
        pid, master = self.record_echo()
        before = self.local_flags(master)
        self.read_until(master, b"\n")
        self.assertEqual(self.local_flags(master), 0)
        os.kill(pid, signal.SIGSEGV)
        self.assertNotEqual(os.waitpid(pid, 0)[1], 0)
        self.assertEqual(self.local_flags(master), before)


if __name__ == "__main__":
    DEJAVM, EXAMPLES = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]])
