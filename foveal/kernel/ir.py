"""LLVM's IR as text: the instructions of a function under construction, each a formatted line.

An operand is a Python string, the name of a value or a constant as LLVM writes it, or a Python int, an integer constant
that is known here. What LLVM's passes would have to undo is not written in the first place, here and in flow.py:

- Integers that are known are computed here, and what changes nothing, such as a product with 1, is left out.
- An instruction without side effects that is open to view, written before with the same operands, is not written again:
  its text is the key to its name (value numbering).
- Such an instruction stands before the outermost open loop that computes none of its operands (loop-invariant code
  motion), as all of them may run where they are not needed.
"""

import operator
from collections.abc import Callable
from functools import cache

# the name of a value, a constant as text, or an integer constant
Operand = str | int

# what an integer instruction computes, on numbers that are known; division only of numbers that are not negative
KNOWN: dict[str, Callable[[int, int], int]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "and": operator.and_,
    "or": operator.or_,
    "xor": operator.xor,
    "shl": operator.lshift,
    "lshr": operator.rshift,
    "udiv": operator.floordiv,
    "urem": operator.mod,
}
UNSIGNED = ("shl", "lshr", "udiv", "urem")
# the second operands that leave the first as it is
NEUTRAL = {"add": 0, "sub": 0, "or": 0, "xor": 0, "shl": 0, "lshr": 0, "mul": 1, "udiv": 1}
# signed comparisons, as LLVM names them
SIGNED = {"<": "slt", "<=": "sle", ">": "sgt", ">=": "sge", "==": "eq", "!=": "ne"}
RELATIONS: dict[str, Callable[[int, int], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}


@cache
def vector(element: str, width: int) -> str:
    """The type of `width` elements; of one, the element's own."""
    return element if width == 1 else f"<{width} x {element}>"


@cache
def declaration(name: str, result: str, kinds: tuple[str, ...]) -> str:
    """The declaration of one of LLVM's own functions."""
    return f"declare {result} @{name}({', '.join(kinds)})"


def arguments(kinds: tuple[str, ...], operands: tuple[Operand, ...]) -> str:
    """What stands between the parentheses of a call."""
    return ", ".join([f"{kind} {operand}" for kind, operand in zip(kinds, operands, strict=True)])


@cache
def suffix(width: int) -> str:
    """What LLVM's own functions of `width` float32 lanes have at the end of their names."""
    return "f32" if width == 1 else f"v{width}f32"


@cache
def splatted(element: str, constant: Operand) -> str:
    """A vector constant whose elements are equal."""
    return f"splat ({element} {constant})"


@cache
def lane_numbers(lanes: tuple[int, ...]) -> str:
    """A constant of int32 lanes."""
    return f"<{', '.join([f'i32 {lane}' for lane in lanes])}>"


def wrapped(number: int, bits: int) -> int:
    """The number modulo 2^bits, as a signed one; one bit is 0 or 1."""
    if bits == 1:
        return number & 1
    half = 1 << (bits - 1)
    return (number + half) % (2 * half) - half


class Block:
    """A basic block: its label, its phis, its other instructions, and the jump at its end."""

    __slots__ = ("end", "label", "lines", "phis")

    def __init__(self, label: str) -> None:
        self.label, self.end = label, ""
        self.phis: list[str] = []
        self.lines: list[str] = []


class Code:
    """The instructions of a function under construction. `block` is where the next one goes."""

    def __init__(self) -> None:
        self.block = Block("entry")
        self.blocks = [self.block]
        #: declarations of LLVM's own functions that it calls
        self.declarations: dict[str, None] = {}
        # of each loop and branch that is open, the block that it is entered from
        self.entrances: list[Block] = []
        self.count = 0
        # by text, the names of the instructions that can be seen here
        self.names: dict[object, str] = {}
        # the texts in `names` by the number of scopes that are open around their instructions
        self.visible: list[list[object]] = [[]]
        # the number of scopes around each value; 0 where it is not listed
        self.depths: dict[Operand, int] = {}
        # for each number of scopes around all operands: those around an instruction with such operands
        self.places = [0]
        # what stands at the beginning of the function: places in memory
        self.allocated: list[str] = []

    def body(self) -> str:
        """The text of all blocks, the first, `entry`, without its label."""
        lines = list(self.allocated)
        for block in self.blocks:
            if block is not self.blocks[0]:
                lines.append(f"{block.label}:")
            lines += block.phis
            lines += block.lines
            lines.append(block.end)
        return "\n".join(lines)

    # instructions of any type

    def name(self) -> str:
        """A new name, of a value or a block."""
        self.count += 1
        return f"%a{self.count}"

    def pure(self, text: str, *operands: Operand, moves: bool = True) -> str:
        """The value of an instruction without side effects that reads no memory.

        moves: it may run where it is not needed.
        """
        name = self.names.get(text)
        if name is not None:
            return name
        depths, depth = self.depths, 0 if moves else len(self.entrances)
        for operand in operands:
            own = depths.get(operand, 0)
            if own > depth:
                depth = own
        # what a closed loop has computed counts as computed here
        place = self.places[min(depth, len(self.entrances))]
        self.count += 1
        name = f"%a{self.count}"
        block = self.block if place == len(self.entrances) else self.entrances[place]
        block.lines.append(f"{name} = {text}")
        if place:
            depths[name] = place
        self.names[text] = name
        self.visible[place].append(text)
        return name

    def compute(self, text: str) -> str:
        """The value of an instruction that stays where it is."""
        name = self.name()
        self.block.lines.append(f"{name} = {text}")
        if self.entrances:
            self.depths[name] = len(self.entrances)
        return name

    def do(self, text: str) -> None:
        """An instruction without a value."""
        self.block.lines.append(text)

    def allocate(self, kind: str) -> str:
        """A place in memory for one value, as long as the function runs."""
        name = self.name()
        self.allocated.append(f"{name} = alloca {kind}")
        return name

    def call(self, name: str, result: str, kinds: tuple[str, ...], *operands: Operand) -> str:
        """The value of one of LLVM's own functions, which has no side effects."""
        self.declarations[declaration(name, result, kinds)] = None
        return self.pure(f"call {result} @{name}({arguments(kinds, operands)})", *operands)

    def perform(self, name: str, kinds: tuple[str, ...], *operands: Operand) -> None:
        """Call one of LLVM's own functions for what it does."""
        self.declarations[declaration(name, "void", kinds)] = None
        self.do(f"call void @{name}({arguments(kinds, operands)})")

    def select(self, condition_kind: str, kind: str, condition: Operand, a: Operand, b: Operand) -> Operand:
        """a where the condition holds, else b."""
        if isinstance(condition, int):
            return a if condition else b
        if a == b:
            return a
        return self.pure(f"select {condition_kind} {condition}, {kind} {a}, {kind} {b}", condition, a, b)

    # vectors

    def splat(self, element: str, value: Operand, width: int) -> str:
        """The value in each of `width` lanes, two or more."""
        if isinstance(value, int) or not value.startswith("%"):
            return splatted(element, value)
        kind = vector(element, width)
        first = self.insert(kind, "poison", element, value, 0)
        return self.pure(f"shufflevector {kind} {first}, {kind} poison, <{width} x i32> zeroinitializer", first)

    def insert(self, kind: str, lanes: Operand, element: str, value: Operand, lane: int) -> str:
        """The vector with another value in one lane."""
        return self.pure(f"insertelement {kind} {lanes}, {element} {value}, i32 {lane}", lanes, value)

    def extract(self, kind: str, lanes: Operand, lane: int) -> str:
        """One lane of a vector."""
        return self.pure(f"extractelement {kind} {lanes}, i32 {lane}", lanes)

    def shuffle(self, kind: str, a: Operand, b: Operand, lanes: tuple[int, ...]) -> str:
        """A vector of the lanes with these numbers; those of a are numbered first, then those of b."""
        mask = f"{vector('i32', len(lanes))} {lane_numbers(lanes)}"
        return self.pure(f"shufflevector {kind} {a}, {kind} {b}, {mask}", a, b)

    # integers

    def add(self, a: Operand, b: Operand) -> Operand:
        """a + b of int64, which does not overflow."""
        if a == 0:
            return b
        if b == 0:
            return a
        if isinstance(a, int) and isinstance(b, int):
            return a + b
        return self.pure(f"add nsw i64 {a}, {b}", a, b)

    def multiply(self, a: Operand, b: Operand) -> Operand:
        """a * b of int64, which does not overflow."""
        if a == 1:
            return b
        if b == 1:
            return a
        if a == 0 or b == 0:
            return 0
        if isinstance(a, int) and isinstance(b, int):
            return a * b
        return self.pure(f"mul nsw i64 {a}, {b}", a, b)

    def integer(self, name: str, kind: str, a: Operand, b: Operand) -> Operand:
        """An instruction of two integers, which wraps."""
        if isinstance(b, int):
            if isinstance(a, int) and (name not in UNSIGNED or (a >= 0 and b >= (name in ("udiv", "urem")))):
                return wrapped(KNOWN[name](a, b), int(kind[1:]))
            if NEUTRAL.get(name) == b:
                return a
            if b == 0 and name in ("mul", "and"):
                return 0
            if b == 1 and name == "urem":
                return 0
        text = f"{name} {kind} {a}, {b}"
        # a division by what may be 0 must not run without need
        moves = name not in ("udiv", "urem") or (isinstance(b, int) and b != 0)
        return self.pure(text, a, b, moves=moves)

    def compare(self, sign: str, kind: str, a: Operand, b: Operand) -> Operand:
        """a `sign` b of signed integers, or lanes of them."""
        if isinstance(a, int) and isinstance(b, int):
            return int(RELATIONS[sign](a, b))
        return self.pure(f"icmp {SIGNED[sign]} {kind} {a}, {b}", a, b)

    # memory

    def element(self, kind: str, pointer: str, offset: Operand) -> str:
        """A pointer `offset` elements further on."""
        if offset == 0:
            return pointer
        return self.pure(f"getelementptr inbounds {kind}, ptr {pointer}, i64 {offset}", pointer, offset)

    def sum_of_products(self, kind: str, pointer: str, terms: list[tuple[Operand, int]]) -> str:
        """A pointer as many elements further on as the factors of the terms give, multiplied and added up.

        What is known in outer loops is added first, so that it stands there.
        """
        key = (kind, pointer, *terms)
        name = self.names.get(key)
        if name is not None:
            return name
        depths = self.depths
        if len(terms) > 1:
            terms = sorted(terms, key=lambda term: depths.get(term[0], 0))
        result, depth = pointer, 0
        offset: Operand = 0
        for factor, stride in terms:
            own = depths.get(factor, 0)
            if own > depth:
                result, offset, depth = self.element(kind, result, offset), 0, own
            offset = self.add(offset, self.multiply(factor, stride))
        result = self.element(kind, result, offset)
        self.names[key] = result
        self.visible[depths.get(result, 0)].append(key)
        return result

    def load(self, kind: str, pointer: str, align: int) -> str:
        """What is in memory."""
        return self.compute(f"load {kind}, ptr {pointer}, align {align}")

    def store(self, kind: str, value: Operand, pointer: str, align: int, note: str = "") -> None:
        """Write a value to memory."""
        self.block.lines.append(f"store {kind} {value}, ptr {pointer}, align {align}{note}")
