"""Names that users type, and names and texts from outside as they are shown."""

import re

# Control characters (ESC among them, which starts a terminal's commands) but tab and line feed, separators of lines,
# marks that turn the direction of writing around, and halves of surrogate pairs, which no encoding can write.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
# Where Python keeps the bytes 80 to ff of file names that are no UTF-8 (PEP 383).
_BYTES = range(0xDC80, 0xDD00)


def bare(name: str) -> str:
    """Return a name without what does not matter in it: "ResNet-18" and "resnet18" are the same."""
    return name.lower().replace("-", "").replace("_", "")


def printable(text: str) -> str:
    """Return a text that a terminal shows and does not obey: control characters become escapes such as \\x1b."""
    return _UNPRINTABLE.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    """The escape of one character, or of the byte that it stands for."""
    code = ord(found[0])
    return f"\\x{code - 0xDC00:02x}" if code in _BYTES else found[0].encode("unicode_escape").decode()
