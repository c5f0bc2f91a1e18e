"""Runs inside gdb, on a recording of racy: walks back from the panic over the writes to the list's head until one of them
overwrites another value than its thread had read. Prints where that is, and where the thread had read."""
import re

import gdb

WRITES_MAX = 5000
# The value that the thread had read from the head, and the line where it did, by function.
READ = {"list_take": ("first", "first = list->head"), "list_give": ("item->next", "item->next = list->head")}


def is_stale(function):
    """What the thread had read is not so any more: the head, or (the item went and came back) the item after it."""
    value = gdb.parse_and_eval
    if value(READ[function][0]) != value("free_items.head"):
        return True
    return function == "list_take" and value("rest") != value("first->next")


def do(command):
    return gdb.execute(command, to_string=True)


def position():
    return re.search(r"position ([\d,]+)", do("monitor when")).group(1)


def find():
    do("watch free_items.head")
    for _ in range(WRITES_MAX):
        do("reverse-continue")
        function = gdb.selected_frame().name()
        if function not in READ:
            raise gdb.GdbError(f"came to {function} without finding it")
        if is_stale(function):
            return function
    raise gdb.GdbError("looked at too many writes")


def source_line(frame, text):
    lines = open(frame.find_sal().symtab.fullname()).read().splitlines()
    return next(i for i, line in enumerate(lines, 1) if text in line)


function = find()
frame = gdb.selected_frame()
thread = int(gdb.parse_and_eval("self"))
instruction = do("monitor when").splitlines()[1].split("): ")[1]
print(f"CULPRIT {function} line {frame.find_sal().line} thread {thread} at 0x{frame.pc():x} position {position()}: {instruction}")
do("delete")
do(f"tbreak list.user.c:{source_line(frame, READ[function][1])} if self == {thread}")
do("reverse-continue")
print(f"READ at position {position()}")
