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

SKIPPED = 77
PACKAGE = "linux-image-cloud-amd64"
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


def fetch(cache):
    """The kernel package and busybox, unpacked under cache; fetched with apt once."""
    tree = os.path.join(cache, "tree")
    if os.path.exists(os.path.join(cache, "complete")):
        return tree
    shutil.rmtree(cache, ignore_errors=True)
    os.makedirs(tree)
    depends = run(["apt-cache", "depends", PACKAGE])
    kernel = re.search(r"Depends: (linux-image-\S+)", depends)
    if not kernel:
        raise Failure(f"apt knows no {PACKAGE}: run apt-get update")
    run(["apt-get", "download", kernel.group(1), "busybox-static"], cwd=cache)
    for name in os.listdir(cache):
        if name.endswith(".deb"):
            run(["dpkg-deb", "-x", os.path.join(cache, name), tree])
    open(os.path.join(cache, "complete"), "w").close()
    return tree


def cpio_entry(name, mode, data, inode):
    """One member of a newc archive."""
    encoded = name.encode() + b"\0"
    fields = [inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(encoded), 0]
    out = b"070701" + b"".join(b"%08x" % f for f in fields) + encoded
    out += b"\0" * (-len(out) % 4)
    return out + data + b"\0" * (-len(data) % 4)


class Initramfs:
    def __init__(self):
        self.parts, self.folders, self.inode = [], set(), 0

    def _add(self, name, mode, data):
        self.inode += 1
        self.parts.append(cpio_entry(name, mode, data, self.inode))

    def folder(self, name):
        if name and name not in self.folders:
            self.folder(os.path.dirname(name))
            self.folders.add(name)
            self._add(name, 0o40755, b"")

    def file(self, name, data, mode=0o755):
        name = name.lstrip("/")
        self.folder(os.path.dirname(name))
        self._add(name, 0o100000 | mode, data)

    def write(self, path):
        self._add("TRAILER!!!", 0, b"")
        with open(path, "wb") as out:
            out.write(b"".join(self.parts))


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


def build_initramfs(tree, arguments, path):
    fs = Initramfs()
    for folder in ("proc", "sys", "dev", "tmp"):
        fs.folder(folder)
    fs.file("bin/busybox", contents(os.path.join(tree, "bin/busybox")))
    fs.file("dejavm", contents(arguments.binary))
    for library in libraries(arguments.binary):
        fs.file(library, contents(library))
    fs.file("guest", contents(arguments.guest))
    names = []
    for module in module_order(tree, ["kvm_amd", "virtio_pci", "virtio_blk"]):
        names.append("/modules/" + os.path.basename(module))
        fs.file(names[-1], contents(module), 0o644)
    append = f"--append '{arguments.append}'" if arguments.append else ""
    fs.file("init", INIT.format(modules=" ".join(names), runs=arguments.runs, guest_arguments=append).encode())
    fs.write(path)


def boot(tree, work, timeout):
    kernels = os.listdir(os.path.join(tree, "boot"))
    kernel = os.path.join(tree, "boot", next(k for k in kernels if k.startswith("vmlinuz")))
    disk = os.path.join(work, "traces.img")
    with open(disk, "wb") as out:
        out.truncate(DISK_BYTES)
    command = ["qemu-system-x86_64", "-accel", "tcg", "-cpu", "EPYC,+svm,+npt", "-m", "1536", "-nographic", "-no-reboot",
               "-net", "none", "-kernel", kernel, "-initrd", os.path.join(work, "initramfs"),
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
    for tool in ("qemu-system-x86_64", "apt-get", "dpkg-deb"):
        if not shutil.which(tool):
            print(f"skipped: {tool} is not installed")
            sys.exit(SKIPPED)
    work = os.path.join(arguments.cache, "work")
    try:
        tree = fetch(os.path.join(arguments.cache, "packages"))
        shutil.rmtree(work, ignore_errors=True)
        os.makedirs(work)
        build_initramfs(tree, arguments, os.path.join(work, "initramfs"))
        disk, _ = boot(tree, work, arguments.timeout)
        with tarfile.open(disk, "r:", ignore_zeros=False) as archive:
            archive.extractall(work)
        different = check(arguments, work)
    except Failure as failure:
        print(f"FAILED: {failure}", file=sys.stderr)
        sys.exit(1)
    print(f"{arguments.runs} recordings under a nested kvm_amd: all sealed, verified and replayed exactly; "
          f"{different} different outcomes")


main()
