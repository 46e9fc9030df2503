"""Random changes of files, for tests that no change is accepted with other values."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

Random = np.random.Generator


def flip_bit(content: bytes, random: Random) -> bytes:
    changed = bytearray(content)
    changed[random.integers(len(content))] ^= 1 << int(random.integers(8))
    return bytes(changed)


def change_digit(content: bytes, random: Random) -> bytes:
    """Replaces a digit by another one, or a byte if there is no digit."""
    places = [match.start() for match in re.finditer(rb"[0-9]", content)]
    if not places:
        return flip_bit(content, random)
    place = places[random.integers(len(places))]
    digit = (int(content[place : place + 1]) + int(random.integers(1, 10))) % 10
    return content[:place] + str(digit).encode() + content[place + 1 :]


def remove(content: bytes, random: Random) -> bytes:
    begin, end = _span(content, random)
    return content[:begin] + content[end:]


def repeat(content: bytes, random: Random) -> bytes:
    begin, end = _span(content, random)
    return content[:end] + content[begin:]


def blank(content: bytes, random: Random) -> bytes:
    begin, end = _span(content, random)
    return content[:begin] + bytes(end - begin) + content[end:]


def exchange(content: bytes, random: Random) -> bytes:
    """Two stretches of the same length in each other's place."""
    length = int(random.integers(1, max(2, min(64, len(content) // 2))))
    first, second = sorted(int(place) for place in random.integers(0, max(1, len(content) - length), 2))
    if second < first + length:
        return flip_bit(content, random)
    one, other = content[first : first + length], content[second : second + length]
    return content[:first] + other + content[first + length : second] + one + content[second + length :]


def cut(content: bytes, random: Random) -> bytes:
    return content[: random.integers(len(content))]


def append(content: bytes, random: Random) -> bytes:
    return content + random.bytes(int(random.integers(1, 64)))


def exchange_lines(content: bytes, random: Random) -> bytes:
    lines = content.splitlines(keepends=True)
    if len(lines) < 2:
        return exchange(content, random)
    first, second = random.choice(len(lines), 2, replace=False)
    lines[first], lines[second] = lines[second], lines[first]
    return b"".join(lines)


CHANGES: tuple[Callable[[bytes, Random], bytes], ...] = (
    flip_bit,
    change_digit,
    remove,
    repeat,
    blank,
    exchange,
    cut,
    append,
    exchange_lines,
)


def change_content(path: Path, random: Random) -> str:
    """Change one file; says how."""
    change = CHANGES[random.integers(len(CHANGES))]
    content = path.read_bytes()
    if content:
        path.write_bytes(change(content, random))
    return f"{change.__name__} {path}"


def change_folder(folder: Path, random: Random) -> str:
    """Change one file below a folder, or which files there are; says how."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    one, other = (paths[index] for index in random.integers(len(paths), size=2))
    match random.integers(12):
        case 0:
            one.unlink()
            return f"deleted {one}"
        case 1:
            other.write_bytes(one.read_bytes())
            return f"copied {one} over {other}"
        case 2:
            between = folder / "between"
            one.rename(between)
            if other.exists():
                other.rename(one)
            between.rename(other)
            return f"exchanged {one} and {other}"
        case 3:
            one.with_stem(f"{one.stem}9").write_bytes(one.read_bytes())
            return f"added a copy of {one}"
        case _:
            return change_content(one, random)


def _span(content: bytes, random: Random) -> tuple[int, int]:
    begin = int(random.integers(len(content)))
    return begin, min(len(content), begin + int(random.integers(1, 65)))
