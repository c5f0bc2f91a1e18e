"""
A shared folder with Debian's kernel in it: what the guest does to files by 9p is what the host finds, the other way round as well, and
there is no way out of the folder. The recording replays when the folder is gone. The kernel is linux-image-amd64: the one for clouds
has no 9p.
"""

import hashlib
import os
import shutil
import stat
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../endtoend"))
import linux_guest  # noqa: E402
from dejavm import Dejavm, Failure  # noqa: E402

APPEND = "console=ttyS0 quiet panic=-1 reboot=t cryptomgr.notests mitigations=off"
FILES = 300

SCRIPT = """
mkdir /mnt /ro /bare
mount -t 9p -o trans=virtio,version=9p2000.L share /mnt
mount -t 9p -o trans=virtio,version=9p2000.L,cache=mmap sources /ro
grep 9p /proc/mounts
cat /mnt/from-host
sha256sum </mnt/large
echo "files: $(ls /mnt/many | wc -l)"
echo "written by the guest" >/mnt/from-guest
echo "and appended" >>/mnt/from-guest
cp /mnt/large /mnt/copy
dd if=/mnt/large of=/mnt/partly bs=1000 count=3 skip=5 2>/dev/null
mkdir /mnt/folder
mv /mnt/rename-me /mnt/folder/renamed
ln -s renamed /mnt/folder/link
cat /mnt/folder/link
ln /mnt/from-host /mnt/hard
chmod 4751 /mnt/from-guest
touch -d "2001-02-03 04:05:06" /mnt/folder/renamed
rm /mnt/remove-me
rmdir /mnt/remove-folder
exec 3</mnt/unlink-me
rm /mnt/unlink-me
cat <&3
exec 3<&-
cp /bin/busybox /mnt/busybox
/mnt/busybox echo "a program from the share ran"
umount /mnt && mount -t 9p -o trans=virtio,version=9p2000.L,cache=mmap share /mnt
/mnt/busybox echo "again, mapped"
cat /mnt/way-out/secret || echo "no way by a folder's link"
cat /mnt/way-out-file || echo "no way by a file's link"
ls -d /mnt/../mnt
mkfifo /mnt/fifo || echo "no FIFO"
mknod /mnt/null c 1 3 || echo "no device"
chown 12345 /mnt/from-guest || echo "no other owner"
cat /ro/from-host
echo no >/ro/from-host || echo "read-only: no write"
rm /ro/from-host || echo "read-only: no removal"
umount /mnt
umount /ro
mount -t 9p -o trans=virtio,version=9p2000.L nothing /bare || echo "no such tag"
"""

WANTED = ("hello from the host", "relatime,mmap", f"files: {FILES}", "to be renamed", "still there", "a program from the share ran",
          "again, mapped", "no way by a folder's link", "no way by a file's link", "no FIFO", "no device", "no other owner",
          "hello from the sources", "read-only: no write", "read-only: no removal", "no such tag", "script ended with status 0")


def write(path, text):
    with open(path, "w") as out:
        out.write(text)


def fill(folder, large):
    os.makedirs(os.path.join(folder, "many"))
    for number in range(FILES):
        write(os.path.join(folder, "many", f"a file with the number {number}"), "")
    for name, text in (("from-host", "hello from the host\n"), ("rename-me", "to be renamed\n"), ("remove-me", ""),
                       ("unlink-me", "still there\n")):
        write(os.path.join(folder, name), text)
    os.mkdir(os.path.join(folder, "remove-folder"))
    os.symlink("..", os.path.join(folder, "way-out"))
    os.symlink(os.path.join(os.path.dirname(folder), "secret"), os.path.join(folder, "way-out-file"))
    with open(os.path.join(folder, "large"), "wb") as out:
        out.write(large)


def read(folder, name):
    with open(os.path.join(folder, name), "rb") as file:
        return file.read()


def check_host_side(folder, large):
    if read(folder, "from-guest") != b"written by the guest\nand appended\n":
        raise Failure(f"from-guest: {read(folder, 'from-guest')!r}")
    if read(folder, "copy") != large or read(folder, "partly") != large[5000:8000]:
        raise Failure("a copy made by the guest differs")
    if read(folder, "folder/renamed") != b"to be renamed\n" or os.readlink(os.path.join(folder, "folder/link")) != "renamed":
        raise Failure("renaming or linking went wrong")
    if not os.path.samefile(os.path.join(folder, "hard"), os.path.join(folder, "from-host")):
        raise Failure("the hard link is another file")
    if os.stat(os.path.join(folder, "folder/renamed")).st_mtime != 981173106:
        raise Failure("the time that was set is not there")
    if stat.S_IMODE(os.stat(os.path.join(folder, "from-guest")).st_mode) != 0o751:
        raise Failure("the mode that was set is not there, or the set-user-ID bit is")
    for gone in ("rename-me", "remove-me", "remove-folder", "unlink-me", "fifo", "null"):
        if os.path.lexists(os.path.join(folder, gone)):
            raise Failure(f"{gone} is there")


def files_are_the_same_on_both_sides(dejavm, folder):
    large = os.urandom(1_500_000)
    share, sources = dejavm.path("host/share"), dejavm.path("sources")
    os.makedirs(share)
    os.makedirs(sources)
    write(dejavm.path("host/secret"), "the secret")
    write(os.path.join(sources, "from-host"), "hello from the sources\n")
    fill(share, large)
    script = dejavm.path("script")
    write(script, SCRIPT)
    linux_guest.fetch(folder, "--package", "linux-image-amd64", "--script", script, "--vmlinux", "--module", "virtio_pci",
                      "--module", "9p", "--module", "9pnet_virtio")
    trace = dejavm.path("share.dvm")
    console, err, _ = dejavm.run("record", "--engine", "emu", "-m", "256M", "--share", share, "--share", f"{sources},tag=sources,ro",
                                 "--initrd", os.path.join(folder, "initrd.img"), "--append", APPEND, "--timeout", 300, "-o", trace,
                                 os.path.join(folder, "vmlinux"), timeout=900)
    for text in (*WANTED, hashlib.sha256(large).hexdigest()):
        if text.encode() not in console:
            raise Failure(f"the console lacks {text!r}:\n{console.decode('utf-8', 'replace')[-4000:]}")
    if b"the secret" in console:
        raise Failure("the guest read a file outside of the folder")
    if "replayed exactly" not in err:
        raise Failure(f"record said:\n{err}")
    check_host_side(share, large)
    if read(sources, "from-host") != b"hello from the sources\n":
        raise Failure("the read-only folder has changed")
    shutil.rmtree(share)
    replayed, _, _ = dejavm.run("replay", trace, timeout=600)
    if replayed != console:
        raise Failure(f"the replay printed {len(replayed)} bytes, the recording {len(console)}")
    return "both sides have the same files"


def main():
    binary, folder = sys.argv[1:]
    dejavm = Dejavm(binary, folder)
    try:
        started = time.time()
        print(f"{files_are_the_same_on_both_sides(dejavm, folder)} ({time.time() - started:.1f} s)", flush=True)
    except linux_guest.Unavailable as reason:
        print(f"skipped: {reason}")
        sys.exit(linux_guest.SKIPPED)
    except Failure as failure:
        print(f"FAILED: {failure}", file=sys.stderr)
        sys.exit(1)
    finally:
        dejavm.close()


main()
