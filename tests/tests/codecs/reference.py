# Decompresses pages with the libraries that crash, makedumpfile and libkdumpfile use.
# stdin: records of flags, page length, stored length (u32, little-endian) and the stored bytes.
# stdout: for each record the page, or as many bytes 0xee when the library refused it; its complaint goes to stderr.
import ctypes, struct, sys, zlib

lzo = ctypes.CDLL("liblzo2.so.2")
snappy = ctypes.CDLL("libsnappy.so.1")
zstd = ctypes.CDLL("libzstd.so.1")
zstd.ZSTD_decompress.restype = ctypes.c_size_t
size_t = ctypes.c_size_t


def unpack(flags, stored, length):
    if flags == 0x01:
        return zlib.decompress(stored)
    page = ctypes.create_string_buffer(length)
    if flags == 0x02:
        got = size_t(length)
        status = lzo.lzo1x_decompress_safe(stored, size_t(len(stored)), page, ctypes.byref(got), None)
        assert status == 0, f"liblzo2 says {status}"
        return page.raw[: got.value]
    if flags == 0x04:
        got = size_t(length)
        status = snappy.snappy_uncompress(stored, size_t(len(stored)), page, ctypes.byref(got))
        assert status == 0, f"libsnappy says {status}"
        return page.raw[: got.value]
    if flags == 0x20:
        got = zstd.ZSTD_decompress(page, size_t(length), stored, size_t(len(stored)))
        assert not zstd.ZSTD_isError(size_t(got)), f"libzstd says {got}"
        return page.raw[:got]
    raise AssertionError(f"flags {flags:#x}")


while head := sys.stdin.buffer.read(12):
    flags, length, size = struct.unpack("<III", head)
    stored = sys.stdin.buffer.read(size)
    try:
        page = unpack(flags, stored, length)
        assert len(page) == length, f"{len(page)} bytes came out"
    except (AssertionError, zlib.error) as e:
        print(f"flags {flags:#x}, {size} bytes: {e}", file=sys.stderr)
        page = b"\xee" * length
    sys.stdout.buffer.write(page)
