"""
A Linux guest under the debugger: what dejavm finds in the memory of Debian's kernel is what the guest itself says, without any debug
package, with the kernel at a random address and page tables of its own for user mode.
"""

import os
import re
import shutil
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
for folder in ("../linux", "../endtoend", "../debug"):
    sys.path.insert(0, os.path.join(HERE, folder))
import gdbtest  # noqa: E402
import linux_guest  # noqa: E402
from dejavm import Dejavm, Failure  # noqa: E402

APPEND = "console=ttyS0 panic=-1 reboot=t cryptomgr.notests quiet pti=on"

SCRIPT = """
/guest threads
sleep 1000 &
/guest kallsyms
cat /proc/modules | sed 's/^/module /'
grep -E ' (schedule|vfat_lookup|fat_search_long)( |\t|$)' /proc/kallsyms | sed 's/^/symbol /'
/guest spin
/guest pair
echo messages $(dmesg | wc -l)
dmesg | tail -n 4 | sed 's/^/message /'
/guest ps
echo MARK-HERE
"""


def check(condition, *what):
    if not condition:
        raise Failure("; ".join(str(w) for w in what)[-3000:])


def equal(one, other, what):
    check(one == other, f"{what}: {one!r} is not {other!r}")


class Guest:
    """One recorded boot, and what it printed."""

    def __init__(self, dejavm, folder):
        self.dejavm = dejavm
        program, script = dejavm.path("guest"), dejavm.path("script")
        subprocess.run(["gcc", "-O1", "-static", "-pthread", "-o", program, os.path.join(HERE, "guest.c")], check=True)
        with open(script, "w") as out:
            out.write(SCRIPT)
        linux_guest.fetch(folder, "--script", script, "--add", f"{program}=guest", "--module", "vfat")
        self.trace = dejavm.path("boot.dvm")
        out, self.err, _ = dejavm.run("record", "--engine", "emu", "--initrd", os.path.join(folder, "initrd.img"), "--append",
                                      APPEND, "--timeout", 240, "-o", self.trace, os.path.join(folder, "vmlinuz"), timeout=600)
        self.console = out.decode("utf-8", "replace").replace("\r", "")
        check("MARK-HERE" in self.console, "the script did not end", self.console)
        self.mark = self.position_of("MARK-HERE")

    def gdb(self, *commands, at=None, options=()):
        at = self.mark if at is None else at
        return gdbtest.gdb(self.trace, *commands, options=("--at", str(at), *options))

    def position_of(self, text):
        return gdbtest.position(self.gdb(f'goto console "{text}"', "when", at="start")[1])

    def lines(self, word):
        return re.findall(rf"^{word} (.*)$", self.console, re.MULTILINE)


def elf_symbols(path):
    """(address, name) of every symbol, as readelf has them."""
    out = subprocess.run(["readelf", "-sW", path], check=True, capture_output=True, text=True).stdout
    return re.findall(r"^ +\d+: ([0-9a-f]{16}) +\w+ (?:FUNC|OBJECT) +\w+ +DEFAULT +\S+ (\S+)$", out, re.MULTILINE)


def fnv_sum(symbols):
    total = 0
    for address, name in symbols:
        value = 0xCBF29CE484222325
        for c in f"{address} {name}".encode():
            value = ((value ^ c) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
        total += value
    return total & 0xFFFFFFFFFFFFFFFF


def all_symbols_are_found(guest):
    """The ELF file has exactly the kernel's own list, at the addresses of this boot, and those of the modules."""
    path = guest.dejavm.path("kernel.sym")
    out, _, _ = guest.dejavm.run("symbols", guest.trace, "--at", guest.mark, "-o", path)
    text = out.decode()
    offset = int(re.search(r"KASLR offset 0x([0-9a-f]+)", text)[1], 16)
    check(offset % (2 << 20) == 0 and 0 < offset < 1 << 30, "KASLR", text)
    count, checksum = guest.lines("kallsyms")[0].split()
    symbols = elf_symbols(path)
    ranges = [(int(m.split()[5], 16), int(m.split()[1])) for m in guest.lines("module")]
    own = [s for s in symbols if not any(b <= int(s[0], 16) < b + size for b, size in ranges)]
    equal(len(own), int(count), "symbols of the kernel")
    equal(f"{fnv_sum(own):016x}", checksum, "their sum")
    for line in guest.lines("symbol"):
        address, _, name = line.split()[:3]
        check((address, name) in symbols, f"{line} is not in the file")
    check(len(guest.lines("symbol")) == 3, guest.lines("symbol"))
    return f"{count} symbols, KASLR offset {offset:#x}"


def tasks_modules_and_messages_are_those_of_the_guest(guest):
    ps, lsmod, dmesg, last = guest.gdb("monitor ps", "monitor lsmod", "monitor dmesg", "monitor dmesg 4")
    found = {}
    for pid, ppid, state, name in re.findall(r"^[* ] +(\d+) +(\d+)  (\S)  (.*)$", ps, re.MULTILINE):
        found[int(pid)] = (int(ppid), re.sub(r" \(of \d+\)$", "", name).strip("[]"))
    told = {}
    for line in guest.lines("task"):
        tid, _, ppid, _, name = line.split(" ", 4)
        told[int(tid)] = (int(ppid), name[:15])  # /proc knows longer names of kernel threads than their task_struct
    lister = [tid for tid, (_, name) in told.items() if name == "guest"]
    equal(len(lister), 1, "the task that lists tasks")
    del told[lister[0]]  # it has ended
    equal(found.pop(0), (0, "swapper/0"), "the idle task")
    check(len(told) > 20, told)
    for tid, task in told.items():
        if not task[1].startswith("kworker"):  # their names change with what they do
            equal(found.get(tid), task, f"task {tid}")
    check(set(found) - set(told) <= {t for t in found if found[t][1].startswith("kworker")}, "more tasks", found, told)
    check(re.search(r"^\*", ps, re.MULTILINE), "no current task", ps)

    for line in guest.lines("module"):
        name, size, used, by, _, address = line.split()[:6]
        by = "" if by == "-" else by.rstrip(",")
        check(re.search(rf"^{name} +{size}  {address} +{used}  {by}$", lsmod, re.MULTILINE), line, lsmod)
    equal(len(lsmod.splitlines()), 1 + len(guest.lines("module")), "modules")
    check("fat " in lsmod and "  vfat" in lsmod, "who uses fat", lsmod)

    equal(last.splitlines(), guest.lines("message"), "the last messages")
    equal(len(dmesg.splitlines()), int(guest.lines("messages")[0]), "how many messages")
    check(re.match(r"\[    0\.000000\] Linux version 6", dmesg), dmesg[:200])
    return f"{len(told)} tasks, {len(guest.lines('module'))} modules, {len(dmesg.splitlines())} messages"


def threads_are_tasks(guest):
    """Names, saved registers and stacks of tasks that do not run, and of the one in user mode."""
    ids = dict(line.split() for line in guest.lines("thread"))
    choose = "python [t.switch() for t in gdb.selected_inferior().threads() if t.ptid[1] == {}]"
    threads, _, stack, _, kernel = guest.gdb("info threads", choose.format(ids["second"]), "bt", choose.format(2), "bt")
    for name, tid in ids.items():
        check(re.search(rf"Thread {tid} \({name}, sleeping\) +0x[0-9a-f]+ in __schedule \(\)", threads), name, threads)
    check(re.search(r"Thread 2 \(kthreadd, sleeping, kernel\)", threads), threads)
    check(re.search(r"Thread 4194304 \(swapper/0, ", threads), threads)
    for function in ("__schedule", "schedule", "do_syscall_64"):
        check(re.search(rf"^#\d+ .* {function} \(\)", stack, re.MULTILINE), function, stack)
    check(re.search(r"pause", stack), "where it sleeps", stack)
    check(re.search(r"in kthreadd \(\)\n#\d+ .* in ret_from_fork", kernel), "a kernel thread's stack", kernel)

    spinning = re.search(r"^SPIN (\d+)$", guest.console, re.MULTILINE)[1]
    start = guest.position_of(f"SPIN {spinning}")
    places = [start + n * 500_000 for n in range(6, 26)]  # at some of them there may be an interrupt
    whens = guest.gdb(*[command for place in places for command in (f"goto {place}", "when")])[1::2]
    at = [place for place, when in zip(places, whens) if re.search(r"^rip 0x[0-9a-f]{6,7}: ", when, re.MULTILINE)]
    check(at, "never in user mode", whens)
    threads, ps = guest.gdb("info threads", "monitor ps", at=at[0])
    check(re.search(rf"^\* \d+ +Thread {spinning} \(guest, on the vCPU\)", threads, re.MULTILINE), threads)
    check(re.search(rf"^\* +{spinning} ", ps, re.MULTILINE), ps)
    check("in __schedule ()" in threads, "stacks of others while in user mode", threads)
    return f"thread {ids['second']} asleep, {spinning} in user mode"


def breakpoints_of_one_task(guest):
    """Of two tasks that call the same function in turns, only one stops; forwards and backwards; its finish ends in itself."""
    a, b = re.search(r"^PAIR (\d+) (\d+)$", guest.console, re.MULTILINE).groups()
    at = guest.position_of(f"PAIR {a} {b}")
    function = "__x64_sys_getpriority"
    limit = ("python gdb.execute('break " + function + " thread %d' % [t.num for t in gdb.selected_inferior().threads()"
             f" if t.ptid[1] == {b}][0])")
    show = "python print('stopped', gdb.selected_thread().ptid[1], gdb.selected_frame().name())"
    forwards = ["continue", show] * 4
    backwards = ["reverse-continue", show] * 3
    out = guest.gdb(limit, *forwards, *backwards, "finish", show, at=at)
    for text in out[2:15:2]:
        equal(text.splitlines()[-1], f"stopped {b} {function}", "a stop of one task")
    equal(out[-1].splitlines()[-1].split()[:2], ["stopped", b], "finish ends in the same task")
    # Without the restriction, both stop.
    out = guest.gdb(f"break {function}", *forwards, at=at)
    equal([text.split()[-2] for text in out[2::2]], [a, b, a, b], "stops of both")
    return f"{function} of task {b}: 4 stops forwards, 3 backwards"


def files_with_symbols_are_put_where_the_guest_has_them(guest):
    """A kernel as it was linked, and a module's file with line numbers."""
    linked, module = guest.dejavm.path("vmlinux"), guest.dejavm.path("module.ko")
    path = guest.dejavm.path("kernel.sym")
    symbols = {name: address for address, name in elf_symbols(path)}
    offset = int(symbols["_text"], 16) - 0xFFFFFFFF81000000
    subprocess.run(["objcopy", f"--change-addresses=-{offset:#x}", path, linked], check=True)
    wanted = int(symbols["schedule"], 16)
    equal({n: int(a, 16) for a, n in elf_symbols(linked)}["schedule"], wanted - offset, "the linked kernel's schedule")
    source = guest.dejavm.path("module.c")
    with open(source, "w") as out:
        out.write('static const char name[] __attribute__((section(".modinfo"), used)) = "license=GPL\\0name=vfat";\n'
                  "int first_function(int x);\n"
                  "int first_function(int x)\n{\n    return x + 1;\n}\n")
    subprocess.run(["gcc", "-g", "-O1", "-c", "-fno-pic", "-mcmodel=kernel", "-o", module, source], check=True)
    ko = ("--symbols", linked, "--symbols", module)
    info, line, walk, mod = guest.gdb("info address schedule", "info line first_function", "monitor walk schedule",
                                      "info address fat_search_long", options=ko)
    check(f"{wanted:#x}" in info, "schedule", info)
    check(f"{wanted:#x}" in walk, "schedule for monitor", walk)
    found = re.search(r'Line [345] of ".*module.c" starts at address 0x([0-9a-f]+) <first_function>', line)
    check(found, line)
    base = [m.split()[5] for m in guest.lines("module") if m.startswith("vfat ")][0]
    equal(int(found[1], 16), int(base, 16), "the module's code")
    told = [line.split()[0] for line in guest.lines("symbol") if " fat_search_long" in line][0]
    check(told in mod, "a module without a file", mod)
    _, err, _ = guest.dejavm.run("debug", guest.trace, "--at", "start", "--symbols", module, "--", "-nx", "-batch", status=1)
    check("has not loaded the module vfat" in err, err)
    return "at the KASLR offset, and at a module's address"


def before_the_kernel_there_is_nothing(guest):
    ps, dmesg, threads, bt, _, later = guest.gdb("monitor ps", "monitor dmesg", "info threads", "bt", f"goto {guest.mark}",
                                                 "info threads", at="start")
    check("does not run yet" in ps and "does not run yet" in dmesg, ps, dmesg)
    check(re.search(r"^\* 1 +Thread 4194304 \(vCPU\)", threads, re.MULTILINE) and "Thread 1 " not in threads, threads)
    check("#0" in bt, bt)
    check("kthreadd" in later, later)
    _, err, _ = guest.dejavm.run("symbols", guest.trace, "--at", 0, "-o", guest.dejavm.path("none"), status=1)
    check("Linux kernel at this position" in err and not os.path.exists(guest.dejavm.path("none")), err)
    return "a clear answer"


def at_any_time_in_the_boot(guest):
    """Wherever one stops: no failure, and the tasks are there once the kernel has any."""
    steps = int(re.search(r"ran for .*?: ([0-9,]+) steps", guest.err)[1].replace(",", ""))
    commands = []
    for percent in range(2, 100, 7):
        commands += [f"goto {steps * percent // 100}", "monitor ps", "monitor lsmod", "monitor dmesg 1", "info threads", "bt 3"]
    out = guest.gdb(*commands, at="end")
    up = [i for i in range(0, len(out), 6) if "swapper" in out[i + 1]]
    check(len(up) >= 8 and up == list(range(up[0], len(out), 6)), "once up, always up", up)
    for i in up:
        check(len(re.findall(r"^\*", out[i + 1], re.MULTILINE)) == 1, "one current task", out[i + 1])
        check(len(re.findall(r"^\*", out[i + 4], re.MULTILINE)) == 1, "one current thread", out[i + 4])
        check(out[i + 3].startswith("["), "a message", out[i + 3])
    return f"{len(up)} of {len(out) // 6} places have tasks"


def other_guests_are_not_linux(guest):
    trace = guest.dejavm.path("hello.dvm")
    guest.dejavm.run("record", "--engine", "emu", "-o", trace, guest.dejavm.guest("hello"))
    ps, threads = gdbtest.gdb(trace, "monitor ps", "info threads")
    check("no Linux kernel" in ps or "no 64-bit Linux kernel" in ps, ps)
    check(re.search(r"^\* 1 +Thread 1 ", threads, re.MULTILINE), threads)
    _, err, _ = guest.dejavm.run("symbols", trace, "-o", guest.dejavm.path("none"), status=1)
    check("Linux kernel at this position" in err, err)
    return "hello has no tasks"


def damaged_memory_does_no_harm(guest):
    mutations, count = guest.mutations
    seed = int(time.time()) if int(count) > 100_000 else 1
    done = subprocess.run([mutations, guest.trace, str(guest.mark), count, str(seed)], capture_output=True, text=True)
    check(done.returncode == 0, f"seed {seed}: status {done.returncode}", done.stderr[-2500:])
    return done.stdout.strip()


def main():
    binary, examples, mutations, folder, count = sys.argv[1:]
    dejavm = Dejavm(binary, examples)
    gdbtest.set_up(binary, examples)
    try:
        if not shutil.which("gdb"):
            raise linux_guest.Unavailable("there is no gdb here")
        started = time.time()
        guest = Guest(dejavm, folder)
        guest.mutations = (mutations, count)
        print(f"booted ({time.time() - started:.1f} s)", flush=True)
        for test in (all_symbols_are_found, tasks_modules_and_messages_are_those_of_the_guest, threads_are_tasks,
                     breakpoints_of_one_task, files_with_symbols_are_put_where_the_guest_has_them,
                     before_the_kernel_there_is_nothing, at_any_time_in_the_boot, other_guests_are_not_linux,
                     damaged_memory_does_no_harm):
            started = time.time()
            print(f"{test.__name__}: {test(guest)} ({time.time() - started:.1f} s)", flush=True)
    except linux_guest.Unavailable as reason:
        print(f"skipped: {reason}")
        sys.exit(linux_guest.SKIPPED)
    except (Failure, AssertionError) as failure:
        print(f"FAILED: {failure}", file=sys.stderr)
        sys.exit(1)
    finally:
        dejavm.close()


main()
