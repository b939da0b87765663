"""Files of every mode and container, and what a person who knows the format says that their pixels are.

The pixels come from numpy, from the numbers that go into the file; none of them passes Pillow's decoders or
conversions. Where Pillow cannot write a kind of file, it is put together here byte by byte.
"""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image, ImageCms

SIDE = 48


def colours():
    """Smooth: uint8 (48, 48, 3), red to the right, green downwards, blue along the diagonal."""
    down, right = np.mgrid[0:SIDE, 0:SIDE] / (SIDE - 1)
    return (
        np.stack([30 + 200 * right, 220 - 180 * down, 40 + 150 * (right + down) / 2], axis=2).round().astype(np.uint8)
    )


def greys():
    """uint8 (48, 48), black to white."""
    down, right = np.mgrid[0:SIDE, 0:SIDE]
    return np.rint((right * 3 + down * 2) * 255 / (5 * (SIDE - 1))).astype(np.uint8)


def alphas():
    """uint8 (48, 48): a transparent, a half transparent and two opaque quarters."""
    alpha = np.full((SIDE, SIDE), 255, np.uint8)
    alpha[:24, :24], alpha[24:, 24:] = 0, 100
    return alpha


def in_rgb(grey):
    return np.repeat(np.asarray(grey, np.float64)[..., None], 3, axis=2)


def on_white(rgb, alpha):
    share = np.asarray(alpha, np.float64)[..., None] / 255
    return rgb * share + 255 * (1 - share)


def bits():
    """bool (48, 48): large checkers."""
    down, right = np.mgrid[0:SIDE, 0:SIDE] // 8
    return (down + right) % 2 == 0


def few_colours():
    """Index, uint8 (48, 48), and palette, uint8 (16, 3)."""
    down, right = np.mgrid[0:SIDE, 0:SIDE] // 12
    palette = np.random.default_rng(5).integers(0, 256, (16, 3), dtype=np.uint8)
    return (down * 4 + right).astype(np.uint8), palette


def encoded(image, file_format, **options):
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


# PNG


def png(values, depth, kind, *extra):
    """A PNG of `values` (height, width[, channels]) in bytes, or in 16-bit numbers."""
    rows = np.asarray(values).astype(">u2" if depth == 16 else np.uint8).reshape(SIDE, -1)
    if depth < 8:
        per = 8 // depth
        rows = sum(rows[:, place::per] << (8 - depth * (place + 1)) for place in range(per)).astype(np.uint8)
    content = b"".join(b"\0" + row.tobytes() for row in rows)
    head = struct.pack(">IIBBBBB", SIDE, SIDE, depth, kind, 0, 0, 0)
    chunks = [(b"IHDR", head), *extra, (b"IDAT", zlib.compress(content)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


def interlaced_png():
    passes = [(0, 8, 0, 8), (0, 8, 4, 8), (4, 8, 0, 4), (0, 4, 2, 4), (2, 4, 0, 2), (0, 2, 1, 2), (1, 2, 0, 1)]
    parts = [colours()[top::down, left::right] for top, down, left, right in passes]
    content = b"".join(b"\0" + row.tobytes() for part in parts for row in part)
    data = bytearray(png(colours(), 8, 2))
    data[28] = 1
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    packed = zlib.compress(content)
    idat = struct.pack(">I", len(packed)) + b"IDAT" + packed + struct.pack(">I", zlib.crc32(b"IDAT" + packed))
    return bytes(data[:33]) + idat + struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))


def in_16_bits(values):
    """8-bit values as 16-bit ones that are not multiples of 257."""
    return np.asarray(values, np.int64) * 257 + 60 * (np.asarray(values) > 0) - 120 * (np.asarray(values) == 255)


# TIFF


_SIZES = {1: "B", 2: "s", 3: "H", 4: "I"}


def tiff(strips, tags, *, order="<"):
    """A TIFF of strips (bytes each) with tags: number to (kind, values)."""
    tags = {256: (3, [SIDE]), 257: (3, [SIDE]), 259: (3, [1]), 278: (3, [SIDE]), 277: (3, [1]), **tags}
    start = 8
    places = []
    for strip in strips:
        places.append(start)
        start += len(strip)
    tags |= {273: (4, places), 279: (4, [len(strip) for strip in strips])}
    if 324 in tags:  # tiles
        tags |= {324: (4, places), 325: (4, tags.pop(279)[1])}
        del tags[273], tags[278]
    entries, extra = b"", b""
    behind = start + 2 + 12 * len(tags) + 4
    for number, (kind, values) in sorted(tags.items()):
        packed = struct.pack(f"{order}{len(values)}{_SIZES[kind]}", *values)
        if len(packed) > 4:
            packed, extra = struct.pack(order + "I", behind + len(extra)), extra + packed
        entries += struct.pack(order + "HHI", number, kind, len(values)) + packed.ljust(4, b"\0")
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, start)
    count = struct.pack(order + "H", len(tags))
    return head + b"".join(strips) + count + entries + bytes(4) + extra


def tiff_rgb(values, order="<", **tags):
    width = values.dtype.itemsize * 8
    data = values.astype(values.dtype.newbyteorder(order)).tobytes()
    return tiff([data], {258: (3, [width] * 3), 262: (3, [2]), 277: (3, [3]), **tags}, order=order)


def tiff_grey(values, order="<", photometric=1, **tags):
    width = values.dtype.itemsize * 8
    data = values.astype(values.dtype.newbyteorder(order)).tobytes()
    return tiff([data], {258: (3, [width]), 262: (3, [photometric]), **tags}, order=order)


def tiled_tiff():
    # 16 is the smallest side of a tile.
    tiles = [colours()[y : y + 16, x : x + 16].tobytes() for y in range(0, SIDE, 16) for x in range(0, SIDE, 16)]
    tags = {258: (3, [8] * 3), 262: (3, [2]), 277: (3, [3]), 322: (3, [16]), 323: (3, [16]), 324: (4, [])}
    return tiff(tiles, tags)


def planar_tiff():
    tags = {258: (3, [8] * 3), 262: (3, [2]), 277: (3, [3]), 284: (3, [2])}
    return tiff([np.ascontiguousarray(colours()[..., band]).tobytes() for band in range(3)], tags)


def palette_tiff():
    index, palette = few_colours()
    table = np.zeros((3, 256), np.uint16)
    table[:, :16] = palette.T.astype(np.uint16) * 257
    return tiff([index.tobytes()], {258: (3, [8]), 262: (3, [3]), 320: (3, table.reshape(-1).tolist())})


# BMP


def bmp(body, depth, *, compression=0, palette=b"", height=SIDE, masks=b""):
    start = 14 + 40 + len(masks) + len(palette)
    info = struct.pack("<IiiHHIIiiII", 40, SIDE, height, 1, depth, compression, len(body), 0, 0, len(palette) // 4, 0)
    return b"BM" + struct.pack("<IHHI", start + len(body), 0, 0, start) + info + masks + palette + body


def bmp_palette():
    return b"".join(bytes(colour[::-1]) + b"\0" for colour in few_colours()[1])


def bmp_565():
    red, green, blue = np.moveaxis(colours().astype(np.uint16), 2, 0)
    pixels = ((red >> 3) << 11 | (green >> 2) << 5 | blue >> 3)[::-1]
    masks = struct.pack("<III", 0xF800, 0x07E0, 0x001F)
    return bmp(pixels.astype("<u2").tobytes(), 16, compression=3, masks=masks)


def expected_565():
    rgb = colours().astype(int)
    return np.stack([(rgb[..., 0] >> 3) * 255 / 31, (rgb[..., 1] >> 2) * 255 / 63, (rgb[..., 2] >> 3) * 255 / 31], 2)


def bmp_rle8():
    rows = few_colours()[0][::-1]
    body = b"".join(b"".join(bytes([12, row[at]]) for at in range(0, SIDE, 12)) + b"\0\0" for row in rows) + b"\0\1"
    return bmp(body, 8, compression=1, palette=bmp_palette())


# GIF


def gif_in_a_corner():
    """A first frame that covers a quarter of the screen; the rest has the background, which is the first colour."""
    index, palette = few_colours()
    image = Image.fromarray(index[:24, :24])
    image.putpalette(palette.tobytes())
    data = bytearray(encoded(image, "GIF"))
    data[6:10] = struct.pack("<HH", SIDE, SIDE)
    at = data.index(b"\x2c", 13 + 3 * 2 ** ((data[10] & 7) + 1))
    data[at + 1 : at + 5] = struct.pack("<HH", 24, 24)
    return bytes(data)


def expected_in_a_corner():
    index, palette = few_colours()
    seen = np.tile(palette[0], (SIDE, SIDE, 1))
    seen[24:, 24:] = palette[index[:24, :24]]
    return seen


# JPEG


def inks():
    """uint8 (48, 48, 4): cyan, magenta, yellow, black; 0 is no ink."""
    rgb = colours()
    return np.dstack([255 - rgb, np.full((SIDE, SIDE), 40, np.uint8)])


def expected_of_inks():
    ink = inks().astype(np.float64)
    return (255 - ink[..., :3]) * (255 - ink[..., 3:]) / 255


def ycck_jpeg():
    # Adobe inverts the inks, and YCCK once more: what stands for red is the cyan ink.
    rgb = inks()[..., :3].astype(np.float64)
    red, green, blue = np.moveaxis(rgb, 2, 0)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    stored = np.dstack([luma, (blue - luma) / 1.772 + 128, (red - luma) / 1.402 + 128]).round().clip(0, 255)
    # Pillow writes 255 minus what it is given.
    given = np.dstack([255 - stored.astype(np.uint8), inks()[..., 3]])
    data = bytearray(encoded(Image.fromarray(given, "CMYK"), "JPEG", quality=98, subsampling=0))
    data[data.index(b"Adobe") + 11] = 2
    return bytes(data)


def rgb_jpeg():
    """Red, green and blue as they are, which Adobe's marker tells."""
    return encoded(Image.fromarray(colours()), "JPEG", quality=98, keep_rgb=True)


def exchanged_profile():
    """An sRGB profile in which red and green have changed places."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return profile.replace(b"rXYZ", b"tmpX", 1).replace(b"gXYZ", b"rXYZ", 1).replace(b"tmpX", b"gXYZ", 1)


def pillow(values, file_format, mode=None, **options):
    return lambda: encoded(Image.fromarray(np.ascontiguousarray(values), mode), file_format, **options)


def paletted(file_format, **options):
    def make():
        index, palette = few_colours()
        image = Image.fromarray(index)
        image.putpalette(palette.tobytes())
        return encoded(image, file_format, **options)

    return make


def paletted_expected(transparent=None):
    index, palette = few_colours()
    seen = palette[index].astype(np.float64)
    if transparent is not None:
        seen[index == transparent] = 255
    return seen


def animated(file_format, **options):
    others = [Image.fromarray(255 - colours()), Image.fromarray(colours()[::-1].copy())]
    return pillow(colours(), file_format, save_all=True, append_images=others, **options)


def tiff_float():
    return tiff([FLOATS.tobytes()], {258: (3, [32]), 262: (3, [1]), 339: (3, [3])})


def heic():
    import pillow_heif

    pillow_heif.register_heif_opener()
    return encoded(Image.fromarray(colours()), "HEIF", quality=-1)


RGBA = np.dstack([colours(), alphas()])
LA = np.dstack([greys(), alphas()])
FLOATS = (np.asarray(greys(), np.float32) / 255).astype(np.float32)

LOSSLESS, CLOSE, LOSSY = 1, 3, 12
"""The most that a value may differ, of 255: in files that keep every number; where colours are converted; in files that
do not keep them."""

FILES = {
    # name: (bytes of the file, expected pixels, tolerance)
    "png rgb": (lambda: png(colours(), 8, 2), colours(), 0),
    "png rgba": (lambda: png(RGBA, 8, 6), on_white(colours(), alphas()), LOSSLESS),
    "png grey": (lambda: png(greys(), 8, 0), in_rgb(greys()), 0),
    "png grey-alpha": (lambda: png(LA, 8, 4), on_white(in_rgb(greys()), alphas()), LOSSLESS),
    "png rgb 16-bit": (lambda: png(in_16_bits(colours()), 16, 2), colours(), LOSSLESS),
    "png rgba 16-bit": (lambda: png(in_16_bits(RGBA), 16, 6), on_white(colours(), alphas()), LOSSLESS + 1),
    "png grey 16-bit": (lambda: png(in_16_bits(greys()), 16, 0), in_rgb(greys()), LOSSLESS),
    "png grey-alpha 16-bit": (lambda: png(in_16_bits(LA), 16, 4), on_white(in_rgb(greys()), alphas()), LOSSLESS + 1),
    "png 1-bit": (lambda: png(bits(), 1, 0), in_rgb(bits() * 255), 0),
    "png 2-bit": (lambda: png(greys() >> 6, 2, 0), in_rgb((greys() >> 6) * 85.0), 0),
    "png 4-bit": (lambda: png(greys() >> 4, 4, 0), in_rgb((greys() >> 4) * 17.0), 0),
    "png palette": (lambda: png(few_colours()[0], 8, 3, (b"PLTE", few_colours()[1].tobytes())), paletted_expected(), 0),
    "png palette 4-bit": (
        lambda: png(few_colours()[0], 4, 3, (b"PLTE", few_colours()[1].tobytes())),
        paletted_expected(),
        0,
    ),
    "png palette with transparency": (
        lambda: png(few_colours()[0], 8, 3, (b"PLTE", few_colours()[1].tobytes()), (b"tRNS", b"\xff\xff\0")),
        paletted_expected(transparent=2),
        0,
    ),
    "png interlaced": (interlaced_png, colours(), 0),
    "png animated": (animated("PNG"), colours(), 0),
    "png with a profile": (pillow(colours(), "PNG", icc_profile=exchanged_profile()), colours()[..., [1, 0, 2]], CLOSE),
    "png with a broken profile": (pillow(colours(), "PNG", icc_profile=b"nothing" * 30), colours(), 0),
    "bmp rgb": (pillow(colours(), "BMP"), colours(), 0),
    "bmp from the top": (lambda: bmp(colours()[..., ::-1].tobytes(), 24, height=-SIDE), colours(), 0),
    "bmp 16-bit": (bmp_565, expected_565(), LOSSLESS),
    "bmp palette": (
        lambda: bmp(few_colours()[0][::-1].tobytes(), 8, palette=bmp_palette()),
        paletted_expected(),
        0,
    ),
    "bmp run lengths": (bmp_rle8, paletted_expected(), 0),
    "gif": (paletted("GIF"), paletted_expected(), 0),
    "gif with transparency": (paletted("GIF", transparency=6), paletted_expected(transparent=6), 0),
    "gif interlaced": (paletted("GIF", interlace=1), paletted_expected(), 0),
    "gif whose frame is in a corner": (gif_in_a_corner, expected_in_a_corner(), 0),
    "tiff rgb": (lambda: tiff_rgb(colours()), colours(), 0),
    "tiff rgb 16-bit": (lambda: tiff_rgb(in_16_bits(colours()).astype(np.uint16)), colours(), LOSSLESS),
    "tiff rgb 16-bit, big end first": (
        lambda: tiff_rgb(in_16_bits(colours()).astype(np.uint16), ">"),
        colours(),
        LOSSLESS,
    ),
    "tiff grey 16-bit": (lambda: tiff_grey(in_16_bits(greys()).astype(np.uint16)), in_rgb(greys()), LOSSLESS),
    "tiff grey 16-bit, big end first": (
        lambda: tiff_grey(in_16_bits(greys()).astype(np.uint16), ">"),
        in_rgb(greys()),
        LOSSLESS,
    ),
    "tiff float": (tiff_float, in_rgb(greys()), LOSSLESS),
    "tiff grey, 0 is white": (lambda: tiff_grey(255 - greys(), photometric=0), in_rgb(greys()), 0),
    "tiff in tiles": (tiled_tiff, colours(), 0),
    "tiff in planes": (planar_tiff, colours(), 0),
    "tiff palette": (palette_tiff, paletted_expected(), 0),
    "tiff cmyk": (pillow(inks(), "TIFF", "CMYK"), expected_of_inks(), CLOSE),
    "tiff rgba": (pillow(RGBA, "TIFF"), on_white(colours(), alphas()), LOSSLESS),
    "tiff lzw": (pillow(colours(), "TIFF", compression="tiff_lzw"), colours(), 0),
    "tiff deflate": (pillow(colours(), "TIFF", compression="tiff_adobe_deflate"), colours(), 0),
    "tiff fax": (
        lambda: encoded(Image.fromarray(bits()), "TIFF", compression="group4"),
        in_rgb(bits() * 255),
        0,
    ),
    "tiff jpeg": (pillow(colours(), "TIFF", compression="jpeg", quality=95), colours(), LOSSY),
    "tiff with pages": (animated("TIFF"), colours(), 0),
    "jpeg": (pillow(colours(), "JPEG", quality=95), colours(), LOSSY),
    "jpeg grey": (pillow(greys(), "JPEG", quality=95), in_rgb(greys()), LOSSY),
    "jpeg progressive": (pillow(colours(), "JPEG", quality=95, progressive=True), colours(), LOSSY),
    "jpeg rgb": (rgb_jpeg, colours(), LOSSY),
    "jpeg cmyk": (pillow(inks(), "JPEG", "CMYK", quality=98), expected_of_inks(), LOSSY),
    "jpeg ycck": (ycck_jpeg, expected_of_inks(), LOSSY),
    "jpeg of two pictures": (animated("MPO", quality=95), colours(), LOSSY),
    "webp": (pillow(colours(), "WEBP", quality=98), colours(), 2 * LOSSY),
    "webp lossless with alpha": (
        pillow(RGBA, "WEBP", lossless=True, exact=True),
        on_white(colours(), alphas()),
        LOSSLESS,
    ),
    "webp animated": (animated("WEBP", lossless=True), colours(), LOSSLESS),
    "ppm": (lambda: b"P6 48 48 255\n" + colours().tobytes(), colours(), 0),
    "ppm in words": (lambda: b"P3 48 48 255\n" + " ".join(map(str, colours().reshape(-1))).encode(), colours(), 0),
    "pgm 16-bit": (
        lambda: b"P5 48 48 65535\n" + in_16_bits(greys()).astype(">u2").tobytes(),
        in_rgb(greys()),
        LOSSLESS,
    ),
    "pbm": (lambda: b"P4 48 48\n" + np.packbits(~bits(), axis=1).tobytes(), in_rgb(bits() * 255), 0),
    "pfm": (lambda: b"Pf\n48 48\n-1.0\n" + FLOATS[::-1].astype("<f4").tobytes(), in_rgb(greys()), LOSSLESS),
    "jpeg 2000": (pillow(colours(), "JPEG2000", irreversible=False), colours(), LOSSLESS),
    "jpeg 2000 with alpha": (
        pillow(RGBA, "JPEG2000", irreversible=False),
        on_white(colours(), alphas()),
        LOSSLESS,
    ),
    "avif": (pillow(colours(), "AVIF", quality=95, subsampling="4:4:4"), colours(), LOSSY),
    "avif with alpha": (
        pillow(RGBA, "AVIF", quality=95, subsampling="4:4:4"),
        on_white(colours(), alphas()),
        LOSSY,
    ),
    "heic": (heic, colours(), LOSSY),
}
