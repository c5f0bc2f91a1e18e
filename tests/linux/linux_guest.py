"""Debian's kernel as a guest, for tests: fetched with apt when it is missing, by examples/linux/fetch."""

import os
import subprocess

SKIPPED = 77
UNAVAILABLE = 69  # fetch's exit status when apt cannot deliver
FETCH = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../examples/linux/fetch")


class Unavailable(Exception):
    """The kernel cannot be had here: a reason to skip."""


def fetch(folder, *options):
    """Makes folder/vmlinuz and folder/initrd.img; options are fetch's own. The packages stay in folder for the next time."""
    done = subprocess.run([FETCH, *options, folder], capture_output=True, text=True)
    if done.returncode == UNAVAILABLE:
        raise Unavailable(done.stderr.strip())
    if done.returncode != 0:
        raise RuntimeError(f"fetch: exit status {done.returncode}\n{done.stderr}")
    return folder


def package_tree(folder):
    """Where fetch unpacked the packages."""
    names = [name for name in os.listdir(folder) if name.startswith("packages-") and not name.endswith(".part")]
    return os.path.join(folder, names[0], "tree")
