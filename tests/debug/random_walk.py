"""Runs inside gdb: moves about at random and prints what gdb shows there, for the test to compare with a forward replay."""
import json
import random
import re

import gdb

ITEMS = 0x107000  # some data of racy, mapped one to one; the test compares with physical memory
dice = random.Random(1)


def do(command):
    return gdb.execute(command, to_string=True)


def show():
    place = do("monitor when")
    memory = gdb.selected_inferior().read_memory(ITEMS, 64).tobytes().hex()
    state = {name: int(gdb.parse_and_eval(f"(unsigned long)${name}")) for name in ("rip", "rsp", "rax", "rbx")}
    state["position"] = int(re.search(r"position ([\d,]+) of", place).group(1).replace(",", ""))
    state["memory"] = memory
    print("STATE " + json.dumps(state))


moves = ["stepi", "reverse-stepi", "stepi 20", "reverse-stepi 20", "continue", "reverse-continue"]
do("hbreak *timer")
do("goto 60%")
for _ in range(48):
    if dice.random() < 0.2:
        do(f"goto {dice.uniform(10, 95):.3f}%")
    else:
        do(dice.choice(moves))
    show()
