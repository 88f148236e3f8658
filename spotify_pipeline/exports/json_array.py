"""Streams the values of a JSON array with bounded memory.

The standard library's decoder reads row by row from a window of text: faster than an event parser,
and no value of a hostile file can be longer than the window.
"""

import codecs
import json
import re
from collections.abc import Callable, Iterator

from spotify_pipeline.exports.archives import BadExport


class NotAnArray(BadExport):
    """The file is no JSON array, so it holds no history."""


CHUNK = 256 * 1024
# A row of an export has about 800 characters.
_LONGEST_ROW = 64 * 1024
_SPACE = re.compile(r"[ \t\n\r]*")
_AFTER_VALUE = frozenset(",] \t\n\r")
_AGAIN = "Import the file as Spotify sent it."
_decode_json = json.JSONDecoder().raw_decode


def read_array(read: Callable[[int], bytes], name: str) -> Iterator[object]:
    """Yields the values of the JSON array that `read` returns in pieces, one by one.

    `read(size)` returns up to `size` bytes, b"" at the end. `name` is for messages. Raises
    NotAnArray before the first value, and BadExport where the file is broken or cut off.
    """
    text = _Window(read, name)
    if text.next() != "[":
        raise NotAnArray(f"{name} is not a JSON array, so it holds no listening history.")
    text.at += 1
    row = 0
    if text.next() == "]":
        text.at += 1
    else:
        while True:
            yield text.value(row)
            row += 1
            separator = text.next()
            text.at += 1
            if separator == "]":
                break
            if separator != ",":
                raise text.broken(row, cut_off=not separator)
    if text.next():
        raise BadExport(f"{name} goes on after its last row. {_AGAIN}")


class _Window:
    """The part of a file's text that is being read: a row and two chunks at most."""

    def __init__(self, read: Callable[[int], bytes], name: str) -> None:
        self._read = read
        self._name = name
        self._decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        self._text = ""
        self._ended = False
        self.at = 0

    def next(self) -> str:
        """The next character that is no white space; "" at the end of the file."""
        while True:
            self.at = _SPACE.match(self._text, self.at).end()  # type: ignore[union-attr]
            if self.at < len(self._text):
                return self._text[self.at]
            if not self._fill():
                return ""

    def value(self, row: int) -> object:
        """The JSON value that begins at the next character."""
        self.next()
        while True:
            try:
                value, end = _decode_json(self._text, self.at)
            except json.JSONDecodeError:
                complete = False
            except (ValueError, RecursionError):
                # A number of thousands of digits, or thousands of brackets.
                raise self.broken(row, cut_off=False) from None
            else:
                # "12" or "12." at the end of the window may be the beginning of 12.5.
                complete = self._text[end : end + 1] in _AFTER_VALUE
            if complete:
                self.at = end
                return value
            if len(self._text) - self.at > _LONGEST_ROW:
                raise self.broken(row, cut_off=False)
            if not self._fill():
                raise self.broken(row, cut_off=True)

    def broken(self, row: int, *, cut_off: bool) -> BadExport:
        what = "is cut off or broken" if cut_off else "is not valid JSON"
        return BadExport(f"{self._name} {what} after {row} rows. {_AGAIN}")

    def _fill(self) -> bool:
        """Reads another chunk; False at the end of the file."""
        if self._ended:
            return False
        chunk = self._read(CHUNK)
        self._ended = not chunk
        try:
            text = self._decode(chunk, final=self._ended)
        except UnicodeDecodeError:
            raise BadExport(f"{self._name} is not UTF-8 text. {_AGAIN}") from None
        self._text = self._text[self.at :] + text
        self.at = 0
        return not self._ended
