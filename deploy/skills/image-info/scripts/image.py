"""Format and size of a picture from its first bytes: PNG, JPEG, GIF, WebP, BMP. Standard library only; nothing is decoded."""
import base64
import binascii
import json
import os
import stat
import struct
import sys


def fail(message, code=2):
    """Ends with a sentence on standard error and the same as JSON on standard output."""
    json.dump({"error": message}, sys.stdout, ensure_ascii=False)
    print(f"image-info: {message}", file=sys.stderr)
    sys.exit(code)


def request(allowed):
    """The input as a JSON object with none but the allowed keys."""
    try:
        value = json.loads(sys.stdin.buffer.read().decode("utf-8"))
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        fail(f"the input is not JSON: {error}")
    if not isinstance(value, dict):
        fail("the input must be a JSON object")
    unknown = sorted(set(value) - set(allowed))
    if unknown:
        fail(f"unknown keys {', '.join(unknown)}; known are {', '.join(sorted(allowed))}")
    return value


def text(given, key, default=None):
    """A text; without a default it must be there and not be empty."""
    value = given.get(key, default)
    if not isinstance(value, str) or (default is None and not value):
        fail(f"{key} must be a text")
    return value


def answer(value):
    """The result; figures that JSON has no notation for are a mistake of ours."""
    json.dump(value, sys.stdout, ensure_ascii=False, allow_nan=False)
    sys.stdout.write("\n")


FILE_MAX = 256 << 20


class Broken(Exception):
    """The picture ends too early, or contradicts itself."""


def unpack(layout, data, at):
    size = struct.calcsize(layout)
    if at < 0 or at + size > len(data):
        raise Broken("it ends too early")
    return struct.unpack_from(layout, data, at)


def png(data):
    if data[12:16] != b"IHDR":
        raise Broken("its first part is no header")
    width, height, bits, colour = unpack(">IIBB", data, 16)
    frames, at = 1, 8
    while at + 8 <= len(data):
        length, kind = unpack(">I4s", data, at)
        if kind == b"acTL":
            frames = unpack(">I", data, at + 8)[0]
        if kind in (b"IDAT", b"IEND"):
            break
        at += 12 + length
    kinds = {0: "grey", 2: "rgb", 3: "palette", 4: "grey+alpha", 6: "rgb+alpha"}
    return {"format": "png", "width": width, "height": height, "bits": bits, "colour": kinds.get(colour, "unknown"), "frames": frames}


def jpeg(data):
    at = 2
    while True:
        marker, = unpack(">B", data, at)
        if marker != 0xFF:
            raise Broken("a marker is missing")
        kind, = unpack(">B", data, at + 1)
        if kind == 0xFF:
            at += 1
            continue
        if kind == 0x01 or 0xD0 <= kind <= 0xD8:
            at += 2
            continue
        if kind in (0xD9, 0xDA):
            raise Broken("the picture begins before its size is told")
        length, = unpack(">H", data, at + 2)
        if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
            bits, height, width, parts = unpack(">BHHB", data, at + 4)
            return {"format": "jpeg", "width": width, "height": height, "bits": bits, "colour": {1: "grey", 3: "ycbcr", 4: "cmyk"}.get(parts, "unknown"), "frames": 1, "progressive": kind == 0xC2}
        if length < 2:
            raise Broken("a part has no length")
        at += 2 + length


def gif(data):
    width, height, flags = unpack("<HHB", data, 6)
    at, frames = 13 + (3 << ((flags & 7) + 1) if flags & 0x80 else 0), 0

    def skip_blocks(at):
        while (size := unpack("<B", data, at)[0]):
            at += 1 + size
        return at + 1

    while at < len(data):
        kind = data[at]
        if kind == 0x2C:
            frames += 1
            local, = unpack("<B", data, at + 9)
            at = skip_blocks(at + 11 + (3 << ((local & 7) + 1) if local & 0x80 else 0))
        elif kind == 0x21:
            at = skip_blocks(at + 2)
        else:
            break
    return {"format": "gif", "width": width, "height": height, "bits": 8, "colour": "palette", "frames": max(frames, 1)}


def webp(data):
    kind = data[12:16]
    if kind == b"VP8X":
        flags, low_w, high_w, low_h, high_h = unpack("<B3xHBHB", data, 20)
        frames, at = 0, 12
        while flags & 2 and at + 8 <= len(data):
            name, length = unpack("<4sI", data, at)
            frames += name == b"ANMF"
            at += 8 + length + (length & 1)
        return {"format": "webp", "width": (low_w | high_w << 16) + 1, "height": (low_h | high_h << 16) + 1, "bits": 8, "colour": "rgb+alpha" if flags & 16 else "rgb", "frames": max(frames, 1)}
    if kind == b"VP8L":
        mark, bits = unpack("<BI", data, 20)
        if mark != 0x2F:
            raise Broken("the lossless part has no signature")
        return {"format": "webp", "width": (bits & 0x3FFF) + 1, "height": (bits >> 14 & 0x3FFF) + 1, "bits": 8, "colour": "rgb+alpha" if bits >> 28 & 1 else "rgb", "frames": 1}
    if kind == b"VP8 ":
        if data[23:26] != b"\x9d\x01\x2a":
            raise Broken("the lossy part has no signature")
        width, height = unpack("<HH", data, 26)
        return {"format": "webp", "width": width & 0x3FFF, "height": height & 0x3FFF, "bits": 8, "colour": "rgb", "frames": 1}
    raise Broken("its first part is of an unknown kind")


def bmp(data):
    size, = unpack("<I", data, 14)
    width, height, _, bits = unpack("<HHHH", data, 18) if size == 12 else unpack("<iiHH", data, 18)
    return {"format": "bmp", "width": abs(width), "height": abs(height), "bits": bits, "colour": "rgb", "frames": 1}


def look(data):
    readers = (
        (data.startswith(b"\x89PNG\r\n\x1a\n"), png), (data.startswith(b"\xff\xd8\xff"), jpeg), (data[:6] in (b"GIF87a", b"GIF89a"), gif),
        (data[:4] == b"RIFF" and data[8:12] == b"WEBP", webp), (data.startswith(b"BM"), bmp),
    )
    for fits, reader in readers:
        if fits:
            try:
                found = reader(data)
            except Broken as error:
                fail(f"the {reader.__name__} picture is damaged: {error}", 1)
            if not found["width"] or not found["height"]:
                fail(f"the {reader.__name__} picture is damaged: it has no size", 1)
            return found
    fail("this is no PNG, JPEG, GIF, WebP or BMP picture", 1)


def from_file(path):
    if not os.path.isabs(path) or "\0" in path:
        fail("path must be an absolute path: the skill runs in a directory of its own")
    try:
        # Not held by a pipe that nobody writes into.
        if not stat.S_ISREG(os.stat(path).st_mode):
            fail(f"'{path}' is not a regular file")
        if os.path.getsize(path) > FILE_MAX:
            fail(f"'{path}' has more than {FILE_MAX} bytes")
        with open(path, "rb") as file:
            return file.read(FILE_MAX)
    except OSError as error:
        fail(f"cannot read '{path}': {error.strerror}")


def main():
    given = request({"path", "base64"})
    if len(given) != 1:
        fail("give path (of a file on the node that runs this) or base64 (the picture itself)")
    if "path" in given:
        data = from_file(text(given, "path"))
    else:
        try:
            data = base64.b64decode(text(given, "base64"), validate=True)
        except (binascii.Error, ValueError) as error:
            fail(f"base64 cannot be read: {error}")
    found = look(data)
    answer(found | {"bytes": len(data), "megapixels": round(found["width"] * found["height"] / 1e6, 3)})


if __name__ == "__main__":
    main()
