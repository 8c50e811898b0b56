"""Archives of crops: one file of JPEGs with checksums and an index, written once, read in training.

    header   magic, length and checksum of a JSON text, the text: settings and names of the sequences
    records  one per frame, in the order of sequences and frames: `RECORD` and a JPEG, or why there is none
    index    `ENTRY` of every record
    footer   `FOOTER`: where the index begins, its entries and checksum, magic

The writer appends records to FILE.part. After a kill it reads FILE.part up to the last complete record and continues
there. The index is written last; only a complete file is renamed to FILE. Numbers are little-endian.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from tracker.io.files import naming, synchronize
from tracker.io.images import decode_image

MAGIC, END = b"FOCROPS1", b"FOCROPSE"
HEADER = struct.Struct("<8sII")  # magic, bytes of JSON, their crc32
FOOTER = struct.Struct("<QQI8s")  # offset of the index, number of entries, crc32 of the index, magic
CROP, SKIP = b"CROP", b"SKIP"
RECORD = np.dtype(
    [("mark", "S4"), ("sequence", "<u4"), ("frame", "<u4"), ("box", "<f4", 4), ("length", "<u4"), ("crc", "<u4")]
)
ENTRY = np.dtype([("offset", "<u8"), ("record", RECORD)])
_NO_BOX = np.zeros(4, np.float32)


class ArchiveError(ValueError):
    """A file that is not an archive, incomplete or damaged; the message starts with its path."""


class ArchiveWriter:
    """Writes `path`, or continues the file `path`.part that a killed writer of the same `header` left.

    A context manager. Leaving it without `finish` keeps the part.

    Args:
        path: the archive, which must not exist.
        header: a JSON object that describes the file, with the "names" of the sequences. It must differ between runs
            that may not continue each other.

    Attributes:
        done: number of records, including earlier ones.
        skipped: the messages of the records that are not crops.

    Raises:
        ArchiveError: the part has another header or is another file, or another process writes it.
    """

    def __init__(self, path: str | PathLike[str], header: dict[str, Any]) -> None:
        self.path = Path(path)
        self.part = self.path.with_name(self.path.name + ".part")
        head = header_bytes(header)
        self._file = os.fdopen(os.open(self.part, os.O_RDWR | os.O_CREAT, 0o666), "r+b", 1 << 20)
        try:
            _lock(self._file, self.part)
            found = self._file.read(len(head))
            if not head.startswith(found):
                raise ArchiveError(
                    f"{self.part}: part must be of the same sequences and settings, got that of another run "
                    "(remove it to start over)"
                )
            if found != head:  # a new file, or the writer was killed while it wrote the header
                self._file.seek(0)
                self._file.write(head)
            self.done, self.skipped, self._index = 0, [], bytearray()
            self._offset = self._resume(len(head))
        except BaseException:
            self._file.close()
            raise

    def _resume(self, offset: int) -> int:
        """Note the complete records from `offset` on, and truncate the file after the last one."""
        self._file.seek(offset)
        while True:
            record = self._file.read(RECORD.itemsize)
            if len(record) < RECORD.itemsize:
                break
            entry = np.frombuffer(record, RECORD)[0]
            payload = self._file.read(int(entry["length"])) if entry["mark"] in (CROP, SKIP) else b""
            if len(payload) != entry["length"] or _checksum(entry, payload) != entry["crc"]:
                break
            self._note(offset, entry, payload)
            offset += len(record) + len(payload)
        self._file.seek(offset)
        self._file.truncate()
        return offset

    def _note(self, offset: int, record: np.void, payload: bytes) -> None:
        self.done += 1
        self._index += np.array((offset, record), ENTRY).tobytes()
        if record["mark"] == SKIP:
            self.skipped.append(payload.decode())

    def add(self, sequence: int, frame: int, box: np.ndarray, jpeg: bytes) -> None:
        """Append a crop: numbers of its sequence and frame, and the box [4] in it."""
        self._append(CROP, sequence, frame, box, jpeg)

    def skip(self, sequence: int, frame: int, message: str) -> None:
        """Append the reason why a frame has no crop."""
        self._append(SKIP, sequence, frame, _NO_BOX, message.encode())

    def _append(self, mark: bytes, sequence: int, frame: int, box: np.ndarray, payload: bytes) -> None:
        record = np.array((mark, sequence, frame, box, len(payload), 0), RECORD)
        record["crc"] = _checksum(record[()], payload)
        with naming(self.part):
            self._file.write(record.tobytes() + payload)
        self._note(self._offset, record[()], payload)
        self._offset += RECORD.itemsize + len(payload)

    def finish(self) -> None:
        """Write the index and give the file its name."""
        with naming(self.part):
            self._file.write(self._index)
            self._file.write(FOOTER.pack(self._offset, self.done, zlib.crc32(self._index), END))
            self._file.flush()
            os.fsync(self._file.fileno())
            os.replace(self.part, self.path)
            self._file.close()
        synchronize(self.path.parent)

    def __enter__(self) -> ArchiveWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        with naming(self.part):
            self._file.close()


class CropArchive:
    """The crops of an archive, read one by one. Opening it reads only the index.

    It can be pickled, and used by many processes and threads.

    Args:
        path: a file that `tracker prepare` wrote.

    Attributes:
        header: the description in the file.
        skipped: the reason for each frame without a crop.
        sequences: for each sequence with crops, its name and the span [start, stop) of its crops.
        frames: the frame number of each crop, ascending within a sequence.
        boxes: float32 [N, 4], x, y, w, h in each crop.

    Raises:
        ArchiveError: the file is not an archive, incomplete or damaged.
        OSError: the file cannot be read.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = Path(path)
        self._descriptor = os.open(self.path, os.O_RDONLY)
        self._size = size = os.fstat(self._descriptor).st_size
        magic, length, crc = HEADER.unpack(self._read(0, HEADER.size, "header"))
        if magic != MAGIC:
            raise self._error("file must be an archive of `tracker prepare`, got another file")
        text = self._read(HEADER.size, length, "header")
        if zlib.crc32(text) != crc:
            raise self._error("header must match its checksum, got a damaged one")
        self.header: dict[str, Any] = json.loads(text)
        offset, count, crc, magic = FOOTER.unpack(self._read(size - FOOTER.size, FOOTER.size, "footer"))
        if magic != END or offset + count * ENTRY.itemsize + FOOTER.size != size:
            raise self._error("file must end with its index, got a truncated or unfinished one")
        index = self._read(offset, count * ENTRY.itemsize, "index")
        if zlib.crc32(index) != crc:
            raise self._error("index must match its checksum, got a damaged one")
        entries = np.frombuffer(index, ENTRY)
        is_crop = entries["record"]["mark"] == CROP
        self._index = entries[is_crop]
        self.skipped = [self._payload(entry, "note").decode() for entry in entries[~is_crop]]
        numbers = self._index["record"]["sequence"]
        present, starts = np.unique(numbers, return_index=True)
        ends = [*starts[1:], len(numbers)]
        self.sequences = [
            (self.header["names"][number], int(start), int(end))
            for number, start, end in zip(present, starts, ends, strict=True)
        ]
        self.frames = self._index["record"]["frame"].astype(np.int64)
        self.boxes = self._index["record"]["box"]

    def __len__(self) -> int:
        return len(self._index)

    def crop(self, number: int) -> np.ndarray:
        """Crop `number` as RGB uint8 [P, P, 3].

        Raises:
            ArchiveError: the record does not match its checksum.
        """
        try:
            return decode_image(self._payload(self._index[number], f"crop {number}"))
        except ArchiveError:
            raise
        except ValueError as error:  # the checksum matches, so the file was written like this
            raise self._error(f"crop {number}: {error}") from error

    def verify(self) -> None:
        """Read every record and compare it with its checksum.

        Raises:
            ArchiveError: a record is damaged; the message names the first one.
        """
        for number, entry in enumerate(self._index):
            self._payload(entry, f"crop {number}")

    def _payload(self, entry: np.void, what: str) -> bytes:
        data = self._read(int(entry["offset"]), RECORD.itemsize + int(entry["record"]["length"]), what)
        record, payload = data[: RECORD.itemsize], data[RECORD.itemsize :]
        if record != entry["record"].tobytes() or _checksum(entry["record"], payload) != entry["record"]["crc"]:
            raise self._error(f"{what} must match its checksum, got a damaged one")
        return payload

    def _read(self, offset: int, length: int, what: str) -> bytes:
        if not 0 <= offset <= self._size - length:
            raise self._error(f"file must hold a whole {what}, got a truncated one")
        data = b""
        while len(data) < length:  # one call reads 2 GiB at most
            more = os.pread(self._descriptor, length - len(data), offset + len(data))
            if not more:
                raise self._error(f"file must stay as it is while it is read, got a shorter one at the {what}")
            data += more
        return data

    def _error(self, message: str) -> ArchiveError:
        return ArchiveError(f"{self.path}: {message}")

    def __reduce__(self) -> tuple[type[CropArchive], tuple[Path]]:
        return CropArchive, (self.path,)

    def __del__(self) -> None:
        descriptor = self.__dict__.pop("_descriptor", None)
        if descriptor is not None:
            os.close(descriptor)


def header_bytes(header: dict[str, Any]) -> bytes:
    """The beginning of an archive with this header."""
    text = json.dumps(header, sort_keys=True).encode()
    return HEADER.pack(MAGIC, len(text), zlib.crc32(text)) + text


def _checksum(record: np.void, payload: bytes) -> int:
    """crc32 of the record's other fields and the payload."""
    return zlib.crc32(payload, zlib.crc32(record.tobytes()[: -RECORD["crc"].itemsize]))


def _lock(file: BinaryIO, path: Path) -> None:
    try:
        import fcntl
    except ImportError:  # no such locks on this system
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise ArchiveError(f"{path}: part must not be in use, got another process that writes it") from error
