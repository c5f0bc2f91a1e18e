"""
Records a guest on a stock kvm_amd: Debian's cloud kernel in QEMU, which emulates AMD's SVM. There ring 0 runs natively,
unlike on some hosts. The traces come back through a disk image, and are sealed, verified and replayed here.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tarfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../linux"))
import linux_guest  # noqa: E402

# The disk's first part is the tar archive that the guest writes.
DISK_BYTES = 512 << 20

INIT = """#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mkdir -p /tmp /dev/shm
/bin/busybox mount -t tmpfs -o size=700m tmp /tmp
for module in {modules}; do /bin/busybox insmod $module || echo "insmod $module failed"; done
echo NESTED-KVM $(/bin/busybox ls /sys/module | /bin/busybox grep -x -E 'kvm_amd|kvm_intel')
cd /tmp
n=0
while [ $n -lt {runs} ]; do
  /dejavm record --engine kvm --no-seal -m 32M -o /tmp/$n.dvm {guest_arguments} /guest >/tmp/$n.console 2>/tmp/$n.log </dev/null
  echo NESTED-RUN $n status $?
  n=$((n+1))
done
/bin/busybox tail -n 30 /tmp/0.log
/bin/busybox tar -cf /dev/vda *.dvm *.console *.log && echo NESTED-DONE
/bin/busybox sync
/bin/busybox poweroff -f
"""


class Failure(Exception):
    pass


def run(command, **options):
    done = subprocess.run(command, capture_output=True, text=True, **options)
    if done.returncode != 0:
        raise Failure(f"{' '.join(command)}: exit status {done.returncode}\n{done.stdout[-1500:]}\n{done.stderr[-1500:]}")
    return done.stdout


def contents(path):
    with open(path, "rb") as file:
        return file.read()


def libraries(binary):
    return re.findall(r"(/\S+) \(0x", run(["ldd", binary]))


def module_order(tree, wanted):
    """Paths of the modules and of what they need, in loading order (modules.dep is not there before depmod)."""
    available = {}
    for folder, _, names in os.walk(os.path.join(tree, "lib/modules")):
        for name in names:
            if name.endswith(".ko"):
                available[name[:-3].replace("-", "_")] = os.path.join(folder, name)
    order = []

    def add(name):
        path = available.get(name)
        if path is None or path in order:
            return
        depends = re.search(rb"\0depends=([^\0]*)\0", contents(path))
        for needed in (depends.group(1).decode().split(",") if depends else []):
            add(needed.replace("-", "_"))
        order.append(path)

    for name in wanted:
        add(name)
    return order


def build_image(arguments, work, folder):
    """Kernel and initramfs with dejavm, its libraries, the guest and KVM's modules. The packages are fetched before."""
    tree = linux_guest.package_tree(folder)
    modules = module_order(tree, ["kvm_amd", "virtio_pci", "virtio_blk"])
    append = f"--append '{arguments.append}'" if arguments.append else ""
    init = os.path.join(work, "init")
    with open(init, "w") as out:
        out.write(INIT.format(modules=" ".join("/modules/" + os.path.basename(m) for m in modules), runs=arguments.runs,
                              guest_arguments=append))
    files = [(arguments.binary, "/dejavm"), (arguments.guest, "/guest")]
    files += [(library, library) for library in libraries(arguments.binary)]
    files += [(module, "/modules/" + os.path.basename(module)) for module in modules]
    options = [option for source, path in files for option in ("--add", f"{source}={path}")]
    linux_guest.fetch(folder, "--init", init, *options)


def boot(folder, work, timeout):
    disk = os.path.join(work, "traces.img")
    with open(disk, "wb") as out:
        out.truncate(DISK_BYTES)
    command = ["qemu-system-x86_64", "-accel", "tcg", "-cpu", "EPYC,+svm,+npt", "-m", "1536", "-nographic", "-no-reboot",
               "-net", "none", "-kernel", os.path.join(folder, "vmlinuz"), "-initrd", os.path.join(folder, "initrd.img"),
               "-append", "console=ttyS0 panic=-1 quiet", "-drive", f"file={disk},format=raw,if=virtio"]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout)
    except subprocess.TimeoutExpired as late:
        raise Failure(f"QEMU still runs after {timeout} s; it printed: {(late.stdout or b'')[-1500:]!r}") from late
    console = done.stdout.decode("utf-8", "replace")
    if "NESTED-DONE" not in console:
        raise Failure(f"the nested run did not end well:\n{console[-3000:]}")
    if "kvm_amd" not in console:
        raise Failure(f"kvm_amd was not loaded:\n{console[-3000:]}")
    return disk, console


def check(arguments, work):
    sums = set()
    for number in range(arguments.runs):
        trace, console = (os.path.join(work, f"{number}.{kind}") for kind in ("dvm", "console"))
        if not os.path.exists(trace):
            raise Failure(f"run {number} left no trace: {contents(os.path.join(work, f'{number}.log'))[-800:]!r}")
        run([arguments.binary, "verify", trace])
        replayed = subprocess.run([arguments.binary, "replay", trace], capture_output=True)
        if replayed.returncode != 0 or replayed.stdout != contents(console):
            raise Failure(f"run {number}: replay (status {replayed.returncode}) printed {replayed.stdout[-300:]!r}, "
                          f"the recording {contents(console)[-300:]!r}")
        sums.add(contents(console)[-120:])
    if arguments.runs > 1 and len(sums) < 2:
        raise Failure("all recordings printed the same: nothing was proved")
    return len(sums)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("guest")
    parser.add_argument("cache", help="folder for the kernel package and scratch files")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--append", default="")
    parser.add_argument("--timeout", type=int, default=1500)
    arguments = parser.parse_args()
    if not shutil.which("qemu-system-x86_64"):
        print("skipped: qemu-system-x86_64 is not installed")
        sys.exit(linux_guest.SKIPPED)
    work = os.path.join(arguments.cache, "work")
    folder = os.path.join(arguments.cache, "linux")
    try:
        linux_guest.fetch(folder)
        shutil.rmtree(work, ignore_errors=True)
        os.makedirs(work)
        build_image(arguments, work, folder)
        disk, _ = boot(folder, work, arguments.timeout)
        with tarfile.open(disk, "r:", ignore_zeros=False) as archive:
            archive.extractall(work)
        different = check(arguments, work)
    except linux_guest.Unavailable as reason:
        print(f"skipped: {reason}")
        sys.exit(linux_guest.SKIPPED)
    except Failure as failure:
        print(f"FAILED: {failure}", file=sys.stderr)
        sys.exit(1)
    print(f"{arguments.runs} recordings under a nested kvm_amd: all sealed, verified and replayed exactly; "
          f"{different} different outcomes")


main()
