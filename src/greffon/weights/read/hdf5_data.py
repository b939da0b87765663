"""Whether the data of an HDF5 array may be read: where it lies, through which filters, and how much it becomes."""

from __future__ import annotations

import math
import zlib
from typing import TYPE_CHECKING, Any

from greffon.errors import WeightFileError

if TYPE_CHECKING:
    from greffon.weights.read.arrays import Shape

# Filters that need no memory beyond a chunk, or whose memory is bounded here before they run (deflate). Keras writes
# none at all. Others grow their buffers as the data tells them to, or are plugins: code that does not belong to this
# program, from a folder that an environment variable names.
_DEFLATE = 1
_FILTERS = {_DEFLATE: "deflate", 2: "shuffle", 3: "fletcher32"}
_CHECKSUMS = 8  # bytes that fletcher32 adds to a chunk, and a byte to see that there is more
_MOST_CHUNKS = 20_000


def check_storage(dataset: Any, name: str) -> None:
    """Refuse an array that lies outside the file or needs a plugin. Nothing of it is read.

    Raises:
        WeightFileError: it is one of these.
    """
    import h5py

    creation = dataset.id.get_create_plist()
    if creation.get_layout() == h5py.h5d.VIRTUAL or creation.get_external_count():
        raise WeightFileError(
            f"the array {name!r} lies in another file. Refused: it could read other files of this machine"
        )
    codes = [creation.get_filter(number)[0] for number in range(creation.get_nfilters())]
    for code in codes:
        if code not in _FILTERS:
            raise WeightFileError(
                f"the array {name!r} needs the HDF5 filter or plugin {code}. Refused: plugins are code; known are "
                + ", ".join(_FILTERS.values())
            )
    if len(set(codes)) < len(codes):
        raise WeightFileError(f"the array {name!r} is compressed more than once. Refused: it could fill the memory")


def needed(dataset: Any) -> int:
    """Bytes that reading it takes: all of it, or the one chunk that is larger."""
    elements = max(math.prod(dataset.shape), math.prod(dataset.chunks or (0,)))
    return int(elements * dataset.dtype.itemsize)


def check_there(dataset: Any, name: str) -> None:
    """Refuse an array whose numbers are not in the file. HDF5 would make them up, as zeros.

    Raises:
        WeightFileError: fewer bytes are stored than it has.
    """
    stored = dataset.id.get_storage_size()
    claimed = math.prod(dataset.shape) * dataset.dtype.itemsize
    compressed = dataset.id.get_create_plist().get_nfilters() > 0
    if claimed and (stored == 0 if compressed else stored < claimed):
        raise WeightFileError(
            f"the array {name!r} claims {claimed:,} bytes, but {stored:,} are stored for it: it was never written whole"
        )


def check_chunks(dataset: Any, name: str, size: int) -> None:
    """Refuse compressed chunks that become more than a chunk holds, by unpacking each up to there and no further.

    Args:
        dataset: an array whose storage was checked.
        name: of it.
        size: of the file, in bytes.

    Raises:
        WeightFileError: a chunk claims more bytes than the file has, or becomes more than it may.
    """
    creation = dataset.id.get_create_plist()
    codes = [creation.get_filter(number)[0] for number in range(creation.get_nfilters())]
    if not codes:
        return
    for offset, skipped, stored in _chunks(dataset, name, size):
        if _DEFLATE in codes and not skipped >> codes.index(_DEFLATE) & 1:
            most = math.prod(dataset.chunks) * dataset.dtype.itemsize + _CHECKSUMS
            _, packed = dataset.id.read_direct_chunk(offset)
            if len(packed) != stored or _unpacked(packed, most, name) >= most:
                raise WeightFileError(
                    f"a chunk of the array {name!r} unpacks to more than a chunk holds. Refused: it could fill the "
                    "memory"
                )


def _chunks(dataset: Any, name: str, size: int) -> list[tuple[Shape, int, int]]:
    """Place in the array, filters that were skipped, and bytes of every stored chunk."""
    found: list[tuple[Shape, int, int]] = []

    def take(chunk: Any) -> bool | None:
        found.append((chunk.chunk_offset, chunk.filter_mask, chunk.size))
        return True if len(found) > _MOST_CHUNKS else None  # ends the iteration

    dataset.id.chunk_iter(take)
    if len(found) > _MOST_CHUNKS or sum(stored for *_, stored in found) > size:
        raise WeightFileError(f"the chunks of the array {name!r} claim more data than the file has. Refused")
    return found


def _unpacked(packed: bytes, most: int, name: str) -> int:
    try:
        return len(zlib.decompressobj().decompress(packed, most))
    except zlib.error as error:
        raise WeightFileError(f"the array {name!r} cannot be read, the file is damaged: {error}") from None
