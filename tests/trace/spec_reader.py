#!/usr/bin/env python3
"""A second reader of traces, written from trace-format/SPEC.md alone; it shares no code with the first.

usage: spec_reader.py TRACE

Checks everything that the specification says about a trace, and prints what is in it, one "name value" per line.
Exit status 0, or 1 with a message when the trace is not as specified.
"""
import ctypes
import ctypes.util
import struct
import sys

PAGE = 4096
UNKNOWN = 2**64 - 1
M64 = 2**64 - 1
MIB = 1 << 20

META, CPUID, IMAGE, PAGES, KEYFRAME_PAGES, KEYFRAME, EVENTS, POSITIONS, SEAL, INDEX, TRAILER = range(1, 12)
NAMES = ["", "META", "CPUID", "IMAGE", "PAGES", "KEYFRAME_PAGES", "KEYFRAME", "EVENTS", "POSITIONS", "SEAL",
         "INDEX", "TRAILER"]
MAX_RAW = {META: MIB, CPUID: MIB, IMAGE: MIB, PAGES: 64 * 4112, EVENTS: 4 * MIB}


class Damage(Exception):
    pass


def need(condition, what):
    if not condition:
        raise Damage(what)


class Library:
    """The two functions that are not worth writing again: decompression and hashing."""

    def __init__(self):
        self.xxhash = ctypes.CDLL(ctypes.util.find_library("xxhash") or "libxxhash.so.0")
        self.zstd = ctypes.CDLL(ctypes.util.find_library("zstd") or "libzstd.so.1")
        self.xxhash.XXH3_64bits.restype = ctypes.c_uint64
        self.xxhash.XXH3_64bits.argtypes = [ctypes.c_char_p, ctypes.c_size_t]

        class Hash128(ctypes.Structure):
            _fields_ = [("low", ctypes.c_uint64), ("high", ctypes.c_uint64)]

        for function in (self.xxhash.XXH3_128bits, self.xxhash.XXH3_128bits_withSeed):
            function.restype = Hash128
        self.xxhash.XXH3_128bits.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
        self.xxhash.XXH3_128bits_withSeed.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint64]
        self.zstd.ZSTD_getFrameContentSize.restype = ctypes.c_uint64
        self.zstd.ZSTD_getFrameContentSize.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
        self.zstd.ZSTD_decompress.restype = ctypes.c_size_t
        self.zstd.ZSTD_decompress.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t]

    def hash64(self, data):
        return self.xxhash.XXH3_64bits(data, len(data))

    def hash128(self, data):
        h = self.xxhash.XXH3_128bits(data, len(data))
        return h.low, h.high

    def hash128_seeded(self, data, seed):
        h = self.xxhash.XXH3_128bits_withSeed(data, len(data), seed)
        return h.low, h.high

    def decompress(self, data, raw_length):
        need(self.zstd.ZSTD_getFrameContentSize(data, len(data)) == raw_length, "zstd frame of another length")
        out = ctypes.create_string_buffer(raw_length)
        need(self.zstd.ZSTD_decompress(out, raw_length, data, len(data)) == raw_length, "zstd frame")
        return out.raw


LIB = Library()


class Bytes:
    """A payload, read from its start."""

    def __init__(self, data):
        self.data = data
        self.at = 0

    def left(self):
        return len(self.data) - self.at

    def take(self, length):
        need(length <= self.left(), "payload cut off")
        self.at += length
        return self.data[self.at - length:self.at]

    def unpack(self, layout):
        return struct.unpack("<" + layout, self.take(struct.calcsize("<" + layout)))

    def u8(self):
        return self.unpack("B")[0]

    def u64(self):
        return self.unpack("Q")[0]

    def varint(self):
        value = 0
        for i in range(10):
            byte = self.u8()
            need(i < 9 or byte <= 1, "varint too long")
            value |= (byte & 0x7F) << (7 * i)
            if not byte & 0x80:
                return value
        raise Damage("varint too long")

    def svarint(self):
        value = self.varint()
        return (value >> 1) ^ -(value & 1)

    def end(self):
        need(self.left() == 0, "bytes left in a payload")


class Chunk:
    def __init__(self, trace, offset):
        header = trace.read(offset, 56)
        (magic, self.type, compression, self.flags, zero, stored, self.raw_length, self.first, self.count,
         self.position, payload_sum, header_sum) = struct.unpack("<IBBBBIIQQQQQ", header)
        self.offset = offset
        self.end = offset + 56 + stored
        need(magic == 0x434D5644 and zero == 0, "chunk magic")
        need(LIB.hash64(header[:48]) == header_sum, "chunk header checksum")
        need(1 <= self.type <= 11 or self.type >= 128, "chunk type")
        need(compression in (0, 1), "compression")
        need(self.raw_length <= MAX_RAW.get(self.type, 16 * MIB), "chunk too large")
        need(stored == self.raw_length if compression == 0 else stored < self.raw_length, "chunk lengths")
        need(compression == 0 or self.type not in (INDEX, TRAILER), "compressed index")
        payload = trace.read(offset + 56, stored)
        need(LIB.hash64(payload) == payload_sum, "payload checksum")
        self.raw = LIB.decompress(payload, self.raw_length) if compression else payload


class Trace:
    def __init__(self, path):
        with open(path, "rb") as f:
            self.data = f.read()
        header = self.read(0, 64)
        magic, version, length = struct.unpack("<8sII", header[:16])
        need(magic == bytes.fromhex("89444a564d0d0a1a"), "magic")
        need(version in (1, 2) and length == 64 and header[16:56] == bytes(40), "file header")
        need(struct.unpack("<Q", header[56:])[0] == LIB.hash64(header[:56]), "file header checksum")
        self.version = version

    def read(self, offset, length):
        need(offset + length <= len(self.data), "file ends too early")
        return self.data[offset:offset + length]

    def chunks(self):
        """All whole chunks; says whether the file was cut short."""
        found, offset = [], 64
        while offset < len(self.data):
            header = self.data[offset:offset + 56]
            if len(header) < 56 or header == bytes(56):
                return found, True
            stored = struct.unpack("<I", header[8:12])[0]
            if offset + 56 + stored > len(self.data) and LIB.hash64(header[:48]) == struct.unpack("<Q", header[48:])[0]:
                return found, True
            found.append(Chunk(self, offset))
            offset = found[-1].end
        return found, False


def read_meta(chunk):
    fields, b = {}, Bytes(chunk.raw)
    while b.left():
        key = b.u8()
        value = b.take(b.varint())
        need(key not in fields, "META key twice")
        fields[key] = value
        need(key > 8 or b"\0" not in value, "zero byte in META text")
    for key in (33, 34, 35, 36):
        need(len(fields.get(key, b"")) == 8, "META number")
    number = {key: struct.unpack("<Q", fields[key])[0] for key in (33, 34, 35, 36)}
    need(number[33] % PAGE == 0 and number[33] <= 64 << 30, "RAM size")
    need(number[34] % PAGE == 0 and number[34] <= min(number[33], 4 << 30), "low RAM size")
    return fields, number


TYPES = ["", "pio-read", "pio-write", "mmio-read", "mmio-write", "cpu-read", "msr-read", "msr-write", "halt",
         "interrupt", "nmi", "dma", "digest", "console", "mark", "end"]


def read_data(b):
    length = b.varint()
    need(length <= MIB, "event data too long")
    return b.take(length)


def read_landmark(b, last):
    for i in range(18):
        last[i] = (last[i] + b.svarint()) & M64
    b.u64()
    b.varint()
    for limit in (8, 32):
        count = b.u8()
        need(count <= limit, "landmark list too long")
        for _ in range(count):
            b.svarint()
            b.varint()
    count = b.varint()
    need(count <= 65536, "landmark pages")
    for _ in range(count):
        b.svarint()
        b.u64()
    return last[0]


def read_fields(b, kind, cpu):
    """Returns what goes into the summary: a number, and data."""
    if kind in (1, 2, 3, 4):
        size, address, value = b.u8(), b.varint(), b.varint()
        need(size in ((1, 2, 4) if kind < 3 else (1, 2, 4, 8)), "access size")
        need(kind > 2 or address <= 65535, "port")
        return size + address + value, b""
    if kind == 5:
        source = b.u8()
        argument = b.varint()
        cpu[source & 0x7F] = (cpu.get(source & 0x7F, 0) + b.svarint()) & M64
        return source + argument + cpu[source & 0x7F], b""
    if kind in (6, 7):
        known, index, value = b.u8(), b.varint(), b.varint()
        need(known <= 1 and index <= 0xFFFFFFFF, "MSR access")
        return known + index + value, b""
    if kind == 8:
        return 0, b""
    if kind == 9:
        vector, flag = b.u8(), b.u8()
        need(flag <= 1, "RF")
        return vector + flag, b""
    if kind == 10:
        flag = b.u8()
        need(flag <= 1, "RF")
        return flag, b""
    if kind == 11:
        address = b.varint()
        return address, read_data(b)
    if kind == 12:
        numbers = b.unpack("QQQ")
        return sum(numbers), read_data(b)
    if kind == 13:
        return b.u8(), read_data(b)
    if kind == 14:
        return 0, read_data(b)
    return b.u8() + b.varint(), read_data(b)


def read_events(chunk, version):
    """A list of (type, place, position, number, data)."""
    events, b = [], Bytes(chunk.raw)
    base = 0 if chunk.position == UNKNOWN else chunk.position
    previous, cpu, registers = chunk.position, {}, [0] * 18
    need(1 <= chunk.count <= 262144, "event count")
    for i in range(chunk.count):
        tag = b.u8()
        kind, place = tag & 15, (tag >> 4) & 7
        need(kind and place <= (5 if version == 2 else 4), "event type or place")
        if tag & 0x80:
            base += b.varint()
            need(base < UNKNOWN, "position")
            previous = base
        elif place != 4:
            previous = UNKNOWN
        rip = read_landmark(b, registers) if place == 3 else b.varint() if place == 5 else 0
        number, data = read_fields(b, kind, cpu)
        need((kind == 15) == (bool(chunk.flags & 1) and i == chunk.count - 1), "END")
        events.append((kind, place, previous, (number + rip) & M64, data))
    b.end()
    return events


def read_positions(chunk, events):
    b, position, result = Bytes(chunk.raw), chunk.position, []
    need(chunk.first == events.first and 1 <= chunk.count <= events.count, "POSITIONS chunk")
    for i in range(chunk.count):
        delta = b.varint()
        need(i or delta == 0, "first position")
        position += delta
        need(position < UNKNOWN, "position")
        result.append(position)
    b.end()
    return result


class Keyframes:
    def __init__(self, trace, chunks, ram_bytes, low_bytes):
        self.by_offset = {c.offset: c for c in chunks}
        self.list = [c for c in chunks if c.type == KEYFRAME]
        self.frames = (low_bytes // PAGE, (ram_bytes - low_bytes) // PAGE)
        self.references = [self.read(number, c) for number, c in enumerate(self.list)]

    def read(self, number, chunk):
        need(chunk.first == number, "keyframe number")
        need(number or (chunk.position == 0 and chunk.count == 0), "keyframe 0")
        b = Bytes(chunk.raw)
        b.take(24)
        offset, parts, total = b.unpack("QQQ")
        need(b.left() <= MIB, "vCPU state")
        found = {}
        for _ in range(parts):
            part = self.by_offset.get(offset)
            need(part and part.type == KEYFRAME_PAGES and part.first == number and offset < chunk.offset, "part")
            self.read_part(part, found)
            offset = part.end
        need(len(found) == total, "number of references")
        return found

    def read_part(self, part, found):
        b = Bytes(part.raw)
        next_frame, offset, index = 0, 0, 0
        need(1 <= part.count <= 65536, "references")
        for _ in range(part.count):
            frame = next_frame + b.varint()
            next_frame = frame + 1
            need(frame < self.frames[0] or 0 <= frame - (1 << 20) < self.frames[1], "frame outside RAM")
            need(frame not in found, "frame twice")
            kind = b.u8()
            need(kind <= 2, "reference kind")
            if kind == 0:
                found[frame] = None
                continue
            if kind == 2:
                offset += b.svarint()
                index = b.varint()
            else:
                index += 1
            need(0 < offset < part.offset, "reference to a later chunk")
            found[frame] = (offset, index)
        b.end()

    def page(self, reference):
        chunk = self.by_offset.get(reference[0])
        need(chunk and chunk.type == PAGES and reference[1] < chunk.count, "page reference")
        at = 16 * chunk.count + PAGE * reference[1]
        return chunk.raw[at:at + PAGE]

    def digest(self, number):
        """Of RAM at a keyframe, as XXH3-128 terms."""
        seen, low, high, k = set(), 0, 0, number
        while True:
            for frame, reference in self.references[k].items():
                if frame in seen:
                    continue
                seen.add(frame)
                if reference:
                    term = LIB.hash128_seeded(self.page(reference), frame)
                    low, high = (low + term[0]) & M64, (high + term[1]) & M64
            if k == 0:
                return low, high
            k -= k & -k


def check_pages(chunk):
    need(1 <= chunk.count <= 64 and len(chunk.raw) == chunk.count * 4112, "PAGES chunk")
    for i in range(chunk.count):
        page = chunk.raw[16 * chunk.count + PAGE * i:][:PAGE]
        need(LIB.hash128(page) == struct.unpack("<QQ", chunk.raw[16 * i:16 * i + 16]), "page content")
        need(page != bytes(PAGE), "page of zeros in the store")


def check_order(chunks):
    """The raw and the sealing part, and the offset where the raw part ends (0: not finished)."""
    need(chunks and chunks[0].type == META, "META is not first")
    raw, sealing, raw_end = [], [], 0
    for chunk in chunks:
        (sealing if raw_end else raw).append(chunk)
        if chunk.type == TRAILER and not raw_end:
            raw_end = chunk.end
    need(all(c.type not in (POSITIONS, SEAL) for c in raw), "sealing data in the raw part")
    need(all(c.type not in (META, CPUID, IMAGE, EVENTS) for c in sealing), "recording in the sealing part")
    return raw, sealing, raw_end


def check_trailer(chunk, chunks, seal, raw_end, events, keyframes):
    need(len(chunk.raw) == 192, "TRAILER length")
    word = struct.unpack("<24Q", chunk.raw)
    before = [c for c in chunks if c.offset < chunk.offset]

    def size(*types):
        return sum(c.end - c.offset for c in before if c.type in types)

    others = [t for t in {c.type for c in before} if t not in (EVENTS, PAGES, KEYFRAME, KEYFRAME_PAGES, POSITIONS, IMAGE)]
    need(word[0] == chunk.end and word[1] == raw_end, "TRAILER offsets")
    need(word[2] == (seal.offset if seal else 0), "TRAILER: SEAL")
    need(word[3] == sum(c.count for c in events) and word[4] == len(before), "TRAILER counts")
    need(word[5] == sum(c.count for c in before if c.type == PAGES), "TRAILER pages")
    need(word[6:12] == (size(EVENTS), size(PAGES), size(KEYFRAME, KEYFRAME_PAGES), size(POSITIONS), size(IMAGE),
                        size(*others)), "TRAILER sizes")
    need(word[13] == len(events) and word[15] == len(keyframes), "TRAILER tables")
    need(word[16] == (1 if events and events[-1].flags & 1 else 0), "TRAILER flags")
    return word


def check_table(trace, offset, flags, expected):
    for n in range(0, len(expected), 256):
        chunk = Chunk(trace, offset + n // 256 * 8248)
        part = expected[n:n + 256]
        need(chunk.type == INDEX and chunk.flags == flags and chunk.first == n and chunk.count == len(part), "INDEX")
        need(chunk.raw == b"".join(struct.pack("<4Q", *record) for record in part), "INDEX records")


def check_index(trace, chunks, seal, raw_end, events, keyframes, positions):
    """Of the last TRAILER: the tables say what the chunks say."""
    trailer = [c for c in chunks if c.type == TRAILER]
    if not trailer or (seal and trailer[-1].offset < seal.offset):
        return
    word = check_trailer(trailer[-1], chunks, seal, raw_end, events, keyframes)
    by_first = {c.first: c for c in positions}
    records = []
    for c in events:
        p = by_first.get(c.first)
        records.append((c.offset, c.first, p.position if p else (UNKNOWN if seal and positions else c.position),
                        p.offset if p else 0))
    check_table(trace, word[12], 0, records)
    check_table(trace, word[14], 1, [(c.offset, c.first, c.position, c.count) for c in keyframes])


def summarise(events, positions, version):
    """Numbers that another reader can be compared with."""
    by_first = {c.first: c for c in positions}
    counts, order, data, last, number = [0] * 16, 0, 0, 0, 0
    for chunk in events:
        need(chunk.first == number, "event number")
        number += chunk.count
        given = read_positions(by_first[chunk.first], chunk) if chunk.first in by_first else None
        for i, (kind, place, position, value, content) in enumerate(read_events(chunk, version)):
            if positions:
                position = given[i] if given and i < len(given) else UNKNOWN
            need(position == UNKNOWN or position >= last, "position decreases")
            last = last if position == UNKNOWN else position
            counts[kind] += 1
            order = (order * 31 + kind * 8 + place + position + value) & M64
            data = LIB.hash64(struct.pack("<Q", data) + content)
    return counts, number, order, data


def check(path):
    trace = Trace(path)
    chunks, cut = trace.chunks()
    raw, sealing, raw_end = check_order(chunks)
    seals = [c for c in sealing if c.type == SEAL]
    need(len(seals) <= 1, "more than one SEAL")
    seal = seals[0] if seals else None
    if not seal:
        chunks, sealing = raw, []
    fields, number = read_meta(raw[0])
    image = b"".join(c.raw for c in raw if c.type == IMAGE)
    need(len(image) == number[36], "image length")
    for chunk in chunks:
        if chunk.type == PAGES:
            check_pages(chunk)
    keyframes = Keyframes(trace, chunks, number[33], number[34])
    events = [c for c in raw if c.type == EVENTS]
    positions = [c for c in sealing if c.type == POSITIONS]
    counts, total, order, data = summarise(events, positions, trace.version)
    if seal:
        end = struct.unpack("<10Q", seal.raw)
        need(end[7] == len(keyframes.list) and end[8] == len(positions) and end[9] == raw_end, "SEAL")
        need(end[1] <= total, "SEAL events")
    check_index(trace, chunks, seal, raw_end, events, keyframes.list, positions)

    print("engine", fields.get(2, b"").decode(errors="replace"))
    print("sealed", int(bool(seal)))
    print("cut", int((cut and not raw_end) or not counts[15]))
    print("image", f"{LIB.hash64(image):016x}")
    print("events", total)
    for kind in range(1, 16):
        print(TYPES[kind], counts[kind])
    print("order", f"{order:016x}")
    print("data", f"{data:016x}")
    for n, chunk in enumerate(keyframes.list):
        low, high = keyframes.digest(n)
        print("keyframe", n, chunk.position, f"{high:016x}{low:016x}")


def main():
    if len(sys.argv) != 2:
        print(__doc__.strip(), file=sys.stderr)
        return 2
    try:
        check(sys.argv[1])
    except Damage as damage:
        print(f"{sys.argv[1]}: not as specified: {damage}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
