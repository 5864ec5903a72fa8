"""Assembly as it is read: the innermost loops of a kernel, which is where its time goes."""

import re
from collections.abc import Iterable, Iterator

LABEL = re.compile(r"(\.L\w+):")
JUMP = re.compile(r"\t(?:j|b|cb|tb)\S*\t(?:.*\s)?(\.L\w+)$")
# fewer than a register tile has
FEW = 12


def innermost_loops(text: str) -> Iterator[list[str]]:
    """The instructions of each loop of a listing that has no other inside, but for the jump back."""
    lines, labels, spans = text.splitlines(), dict[str, int](), list[tuple[int, int]]()
    for i, line in enumerate(lines):
        if label := LABEL.match(line):
            labels[label[1]] = i
        if (jump := JUMP.match(line)) and jump[1] in labels:
            spans.append((labels[jump[1]], i))
    for first, last in spans:
        if not any(first <= a and b <= last and (a, b) != (first, last) for a, b in spans):
            yield [line for line in lines[first:last] if re.match(r"\t\w", line)]


def count(pattern: str, lines: Iterable[str]) -> int:
    """How many lines a pattern is found in."""
    return sum(bool(re.search(pattern, line)) for line in lines)


def densest_loop(texts: Iterable[str], pattern: str) -> list[str]:
    """Of the innermost loops of some listings with a register tile's worth of matches the one in which the largest
    share of the instructions matches. ValueError if there is none.
    """
    loops = [loop for text in texts for loop in innermost_loops(text) if count(pattern, loop) >= FEW]
    return max(loops, key=lambda loop: count(pattern, loop) / len(loop))
