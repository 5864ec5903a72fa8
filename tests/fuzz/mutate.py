"""What is done to a valid file: by bytes, and by the parts of its format with lengths and checksums put right again."""

import gzip
import io
import json
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from functools import cache
from random import Random

Mutation = Callable[[bytes, Random], bytes]

EXTREMES = (
    0,
    1,
    2,
    255,
    256,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x10000,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    2**63 - 1,
    2**64 - 1,
)
NUMBERS = (
    "0",
    "-1",
    "1e400",
    "NaN",
    "Infinity",
    "true",
    "null",
    "[]",
    "{}",
    str(10**18),
    str(2**64),
    "1" * 5000,
    "0x",
    "1.5",
)
TEXTS = ("", "\\ud800", "n" * 5000, "|O", "<f8", "<i8", "U9", "c16", "nix", "../x", "\\u0000", "\x1b[31m", "['" * 300)


@cache
def zeros(megabytes: int, wbits: int) -> bytes:
    """Zeros, packed by deflate: 1 MB is 3.1 GB. wbits: 31 for gzip's frame, 15 for zlib's; the checksum is wrong."""
    packer = zlib.compressobj(9, wbits=wbits)
    start = packer.compress(b"") + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(1 << 24)) + packer.flush(zlib.Z_FULL_FLUSH)
    return start + block * (megabytes // 16) + packer.flush()


def place(raw: bytes, draw: Random) -> int:
    """A position, more often near the start, where headers are."""
    return int(len(raw) * draw.random() ** draw.choice((1, 3, 6)))


def flip_bits(raw: bytes, draw: Random) -> bytes:
    changed = bytearray(raw)
    for _ in range(draw.choice((1, 1, 2, 8, 40)) if raw else 0):
        changed[place(raw, draw)] ^= 1 << draw.randrange(8)
    return bytes(changed)


def set_number(raw: bytes, draw: Random) -> bytes:
    """Put an extreme whole number of some width and order of bytes somewhere."""
    width, order, i = draw.choice((1, 2, 4, 4, 8)), draw.choice(("little", "big")), place(raw, draw)
    i -= i % draw.choice((1, width))
    number = draw.choice(EXTREMES) % (1 << 8 * width)
    return raw[:i] + number.to_bytes(width, order) + raw[i + width :]


def truncate(raw: bytes, draw: Random) -> bytes:
    return raw[: draw.choice((place(raw, draw), len(raw) - draw.randint(0, 20)))]


def insert(raw: bytes, draw: Random) -> bytes:
    i, count = place(raw, draw), draw.choice((1, 4, 100, 5000))
    return raw[:i] + draw.choice((draw.randbytes(count), bytes(count), b"\xff" * count)) + raw[i:]


def delete(raw: bytes, draw: Random) -> bytes:
    i = place(raw, draw)
    return raw[:i] + raw[i + draw.choice((1, 4, 64, 1000)) :]


def repeat(raw: bytes, draw: Random) -> bytes:
    i, count = place(raw, draw), draw.choice((4, 64, 1000))
    return raw[: i + count] * draw.choice((1, 1, 20)) + raw[i:]


def concatenate(raw: bytes, draw: Random) -> bytes:
    return draw.choice((raw + raw, raw + bytes(1000), b"\0" + raw, raw[: len(raw) // 2] + raw))


def set_text(raw: bytes, draw: Random) -> bytes:
    """Replace a number or a quoted text in a header, such as NumPy's or JSON, by one that it cannot be."""
    kind, choices = draw.choice(((rb"-?\d+(\.\d+)?", NUMBERS), (rb"(?<=['\"])[\w|<>\\ ]*(?=['\"])", TEXTS)))
    found = list(re.finditer(kind, raw[:4000]))
    if not found:
        return flip_bits(raw, draw)
    match = draw.choice(found)
    return raw[: match.start()] + draw.choice(choices).encode("utf-8", "surrogatepass") + raw[match.end() :]


BYTES: tuple[Mutation, ...] = (flip_bits, set_number, truncate, insert, delete, repeat, concatenate, set_text)


def any_of(raw: bytes, draw: Random) -> bytes:
    for _ in range(draw.choice((1, 1, 2, 4))):
        raw = draw.choice(BYTES)(raw, draw)
    return raw


def rearranged(parts: list[bytes], draw: Random) -> list[bytes]:
    """The parts of a file with one damaged, or exchanged, repeated or left out."""
    i, j = draw.randrange(len(parts)), draw.randrange(len(parts))
    change = draw.randrange(6)
    if change <= 2:
        parts[i] = any_of(parts[i], draw)
    elif change == 3:
        parts[i], parts[j] = parts[j], parts[i]
    elif change == 4:
        parts[i:i] = [parts[j]] * draw.choice((1, 1, 300))
    else:
        del parts[i]
    return parts


def png(raw: bytes, draw: Random) -> bytes:
    """Change chunks and put their lengths and checksums right."""
    chunks, i = [], 8
    while i + 8 <= len(raw):
        (length,) = struct.unpack(">I", raw[i : i + 4])
        chunks.append(raw[i + 4 : i + 8 + length])
        i += 12 + length
    kind = draw.randrange(4)
    if kind == 0:
        width, height = (draw.choice((0, 1, 20, 5000, 13_000, 65_535, 2**31 - 1)) for _ in range(2))
        chunks[0] = b"IHDR" + struct.pack(">II", width, height) + chunks[0][12:]
    elif kind == 1:
        bomb = zeros(draw.choice((32, 3200)), 15)
        chunks[1:1] = [draw.choice((b"zTXtname\0\0", b"iCCPname\0\0", b"IDAT")) + bomb]
    elif kind == 2:
        at = next(k for k, chunk in enumerate(chunks) if chunk[:4] == b"IDAT")
        chunks[at] = b"IDAT" + zlib.compress(any_of(zlib.decompress(chunks[at][4:]), draw))
    else:
        chunks = rearranged(chunks, draw)
    return raw[:8] + b"".join(
        struct.pack(">I", max(len(c) - 4, 0)) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks
    )


def jpeg(raw: bytes, draw: Random) -> bytes:
    """Change segments up to the scan, with their lengths right."""
    segments, i = [], 2
    while raw[i : i + 1] == b"\xff" and raw[i + 1] != 0xDA:
        length = struct.unpack(">H", raw[i + 2 : i + 4])[0]
        segments.append(raw[i + 1 : i + 2] + raw[i + 4 : i + 2 + length])
        i += 2 + length
    frame = next((k for k, s in enumerate(segments) if s[0] in (0xC0, 0xC2)), None)
    if frame is not None and draw.random() < 0.4:
        height, width = (draw.choice((0, 1, 9000, 65_535)) for _ in range(2))
        segments[frame] = segments[frame][:2] + struct.pack(">HH", height, width) + segments[frame][6:]
    else:
        segments = rearranged(segments, draw)
    pieces = (b"\xff" + s[:1] + struct.pack(">H", min(len(s) + 1, 65_535)) + s[1:] for s in segments)
    return raw[:2] + b"".join(pieces) + raw[i:]


def tiff(raw: bytes, draw: Random) -> bytes:
    """Change the type, the count or the value of tags."""
    changed = bytearray(raw)
    (start,) = struct.unpack_from("<I", raw, 4)
    (count,) = struct.unpack_from("<H", raw, start)
    for _ in range(draw.choice((1, 2))):
        entry = start + 2 + 12 * draw.randrange(count)
        offset, width = draw.choice(((0, 2), (2, 2), (4, 4), (8, 4)))
        number = draw.choice((*EXTREMES, draw.randrange(40), draw.randrange(256, 330)))
        changed[entry + offset : entry + offset + width] = (number % (1 << 8 * width)).to_bytes(width, "little")
    return bytes(changed)


def riff(raw: bytes, draw: Random) -> bytes:
    """Change the chunks of a WebP file and put their lengths right."""
    chunks, i = [], 12
    while i + 8 <= len(raw):
        (length,) = struct.unpack_from("<I", raw, i + 4)
        chunks.append(raw[i : i + 4] + raw[i + 8 : i + 8 + length])
        i += 8 + length + length % 2
    body = b"WEBP"
    for chunk in rearranged(chunks, draw):
        body += chunk[:4] + struct.pack("<I", max(len(chunk) - 4, 0)) + chunk[4:] + b"\0" * (len(chunk) % 2)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def header_numbers(*offsets: int, order: str = "little", width: int = 4) -> Mutation:
    """Set some of the numbers at these places to extreme or to plausible values."""

    def change(raw: bytes, draw: Random) -> bytes:
        changed = bytearray(raw)
        for offset in draw.sample(offsets, draw.randint(1, len(offsets))):
            number = draw.choice((*EXTREMES, draw.randrange(64), 5000, 12_000)) % (1 << 8 * width)
            changed[offset : offset + width] = number.to_bytes(width, order)
        return bytes(changed)

    return change


def npz(raw: bytes, draw: Random) -> bytes:
    """Change members of the archive, with its checksums right."""
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    i = draw.randrange(len(members))
    name, content = members[i]
    kind = draw.randrange(5)
    if kind == 0:
        members[i] = (draw.choice(("x.npy", "../x", "", "x" * 5000, "\x1b.npy", name[:-4])), content)
    elif kind == 1:
        # The header promises more, and zeros that pack well are there.
        shape = draw.choice(
            (b"(300000000,)", b"(1000, 300, 300)", b"(9223372036854775807,)", b"(99999999999999999999,)")
        )
        header = re.sub(rb"\(\d[^)]*\)", shape, content, count=1)
        members[i] = (name, header + bytes(draw.choice((0, 1000, 40_000_000))))
    else:
        members[i] = (name, draw.choice((set_text, any_of, flip_bits))(content, draw))
    buffer = io.BytesIO()
    compression = draw.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
    with zipfile.ZipFile(buffer, "w", compression, compresslevel=1) as archive:
        for member, data in members:
            archive.writestr(zipfile.ZipInfo(member), data, compression)
    return buffer.getvalue()


def safetensors(raw: bytes, draw: Random) -> bytes:
    """Change the header, mostly the run's description in it, with its length right."""
    (length,) = struct.unpack_from("<Q", raw)
    header = json.loads(raw[8 : 8 + length])
    if draw.random() < 0.7:
        text = header["__metadata__"]["foveal"].encode()
        changed = draw.choice((set_text, any_of))(text, draw).decode("utf-8", "replace")
        header["__metadata__"]["foveal"] = changed
        text = json.dumps(header).encode()
    else:
        text = draw.choice((set_text, any_of))(json.dumps(header).encode(), draw)
    return struct.pack("<Q", len(text)) + text + raw[8 + length :]


def tar(raw: bytes, draw: Random) -> bytes:
    """Change a field of a header, with its checksum right: name, size, kind, where a link leads, magic, prefix."""
    headers = [start for start in range(0, len(raw), 512) if raw[start + 257 : start + 262] == b"ustar"]
    start = draw.choice(headers)
    field, size = draw.choice(((0, 100), (124, 12), (124, 12), (156, 1), (156, 1), (157, 100), (257, 8), (345, 155)))
    # Numbers beyond 8 GiB, and those below 0, begin with a byte of 0x80 or 0xff.
    content = draw.choice(
        (b"7" * size, b"\xff" * size, b"\x80" + draw.randbytes(size - 1), b"0" * size, b"../" * size, b"/" * size)
    )
    kind = draw.choice(b"0123456LKxgSV").to_bytes(1, "big")
    header = bytearray(raw[start : start + 512])
    header[field : field + size] = kind if field == 156 else content[:size]
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return raw[:start] + bytes(header) + raw[start + 512 :]


def parquet(raw: bytes, draw: Random) -> bytes:
    """Change the pages, or what the end says of them, whose length is put right."""
    (length,) = struct.unpack("<I", raw[-8:-4])
    pages, end = raw[: -8 - length], raw[-8 - length : -8]
    if draw.random() < 0.5:
        pages = any_of(pages, draw)
    else:
        end = any_of(end, draw)
    return pages + end + struct.pack("<I", len(end)) + raw[-4:]


def packed(raw: bytes, draw: Random) -> bytes:
    """Pack what is changed, or a bomb that begins like it."""
    inner = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    if draw.random() < 0.5:
        return gzip.compress(any_of(inner, draw), 1, mtime=0)
    # A file of several parts is their contents one after the other.
    return gzip.compress(inner[:16], mtime=0) + zeros(draw.choice((32, 3200)), 31)


# What knows the parts of each format.
PARTS: dict[str, Mutation] = {
    "idx": header_numbers(0, 4, 8, 12, order="big"),
    "cifar": packed,
    "npz": npz,
    "tar": tar,
    "parquet": parquet,
    "safetensors": safetensors,
    "png": png,
    "jpeg": jpeg,
    "tiff": tiff,
    "gif": header_numbers(6, 8, 10, 26, 28, width=2),
    "webp": riff,
    "bmp": header_numbers(2, 10, 14, 18, 22, 26, 30, 34, 46),
}


def mutated(format: str, raw: bytes, draw: Random) -> bytes:
    """Damage a valid file of a format."""
    how = draw.randrange(10)
    if how < 5:
        return PARTS[format](raw, draw)
    if how == 5 and format == "idx":
        return packed(raw, draw)
    return any_of(raw, draw)
