"""The frames of OpenCode's event stream: of each only its data matters.

It sends ``data:`` alone, one line of JSON a frame (1.18.33, measured), thousands of them a second:
what there is for event streams in general takes longer for a frame than its JSON does.
"""

from __future__ import annotations


class Frames:
    """Takes text as it comes, and gives the data of each frame that has ended."""

    def __init__(self) -> None:
        self._begun: list[str] = []  # of a line
        self._data: list[str] = []  # lines of a frame

    def feed(self, text: str) -> list[str]:
        """The frames that end in this text; comments and other fields are left out."""
        if "\r" in text:
            text = text.replace("\r", "")  # JSON has none
        *lines, rest = text.split("\n")
        if lines and self._begun:
            lines[0] = "".join((*self._begun, lines[0]))
            self._begun.clear()
        if rest:
            self._begun.append(rest)
        frames = []
        data = self._data
        for line in lines:
            if line.startswith("data:"):
                data.append(line[5:].removeprefix(" "))
            elif not line and data:
                frames.append("\n".join(data) if len(data) > 1 else data[0])
                data.clear()
        return frames
