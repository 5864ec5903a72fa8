"""Loops, branches and registers of a function under construction.

A register that is assigned is no place in memory but one value after another, with a phi where two ways meet. All
control flow is loops and branches that are opened and closed, so what a phi joins is known when its loop is closed.
"""

from foveal.kernel.ir import Block, Code, Operand


class Register:
    """A place for a value of one type that can be assigned: `value` is what it holds where code is written now.

    depth: the number of scopes that were open when it was made.
    """

    __slots__ = ("depth", "type", "value")

    def __init__(self, kind: str, value: Operand, depth: int) -> None:
        self.type, self.value, self.depth = kind, value, depth


class Scope:
    """A loop or a branch that is open: code in it is not seen from behind it, except through registers."""

    __slots__ = (
        "before",
        "entered",
        "header",
        "index",
        "leaves_from_header",
        "made",
        "may_be_skipped",
        "phis",
        "products",
    )

    def __init__(self, before: Block, header: Block | None = None) -> None:
        #: the block that it is entered from
        self.before = before
        #: of a loop, its first block
        self.header = header
        #: what registers from outside held when it was entered, of those that it has read or assigned
        self.entered: dict[Register, Operand] = {}
        #: of a loop, the names of such registers at the beginning of an iteration
        self.phis: dict[Register, str] = {}
        #: True if it may be passed by
        self.may_be_skipped = False
        #: True for a loop that is left from its first block, not from its end
        self.leaves_from_header = False
        #: the registers that were made in it
        self.made: list[Register] = []
        #: of a counting loop, the name of its index
        self.index = ""
        #: of a counting loop that adds up products of its index: by the other factor, the names of the products
        self.products: dict[Operand, str] | None = None


class StructuredCode(Code):
    """A function under construction, whose loops and branches are opened and closed around its instructions."""

    def __init__(self) -> None:
        super().__init__()
        self.scopes: list[Scope] = []

    # registers

    def register(self, kind: str, value: Operand) -> Register:
        """A new register that holds a value."""
        made = Register(kind, value, len(self.scopes))
        if self.scopes:
            self.scopes[-1].made.append(made)
        return made

    def read(self, register: Register) -> Operand:
        """What a register holds."""
        if register.depth < len(self.scopes) and register not in self.scopes[-1].entered:
            self.enter(register, assigned=False)
        return register.value

    def assign(self, register: Register, value: Operand) -> None:
        """Let a register hold another value from here on."""
        if register.depth < len(self.scopes) and register not in self.scopes[-1].entered:
            self.enter(register, assigned=True)
        register.value = value

    def enter(self, register: Register, assigned: bool) -> None:
        """Note what the register held at the beginning of each scope from its own up to this one.

        A loop that reads it begins each iteration with what the one before has left: a phi. The innermost scope needs
        none if the register is assigned first.
        """
        for depth, scope in enumerate(self.scopes[register.depth :], register.depth + 1):
            if register in scope.entered:
                continue
            scope.entered[register] = register.value
            first_assigned = assigned and depth == len(self.scopes) and not scope.leaves_from_header
            if scope.header is not None and not first_assigned:
                scope.phis[register] = register.value = name = self.name()
                self.depths[name] = depth

    # control flow

    def new_block(self, label: str) -> Block:
        """A block whose place is not decided yet."""
        self.count += 1
        return Block(f"{label}{self.count}")

    def begin(self, block: Block) -> None:
        """Write on in a block, which follows all that were begun."""
        self.blocks.append(block)
        self.block = block

    def open(self, scope: Scope) -> None:
        """Let what follows be inside of the scope."""
        self.scopes.append(scope)
        self.entrances.append(scope.before)
        self.visible.append([])
        self.place()

    def place(self) -> None:
        """Compute `places` anew: an instruction goes before the outermost loop around it that computes no operand."""
        here = len(self.scopes)
        self.places = [here]
        for index in range(here - 1, -1, -1):
            self.places.append(index if self.scopes[index].header is not None else self.places[-1])
        self.places.reverse()

    def close(self, scope: Scope) -> Block:
        """End the scope, and those in it that were left early; gives the block that it has ended in."""
        last = self.block
        open_scopes = self.scopes.index(scope)
        for keys in self.visible[open_scopes + 1 :]:
            for key in keys:
                del self.names[key]
        del self.visible[open_scopes + 1 :], self.scopes[open_scopes:], self.entrances[open_scopes:]
        self.place()
        return last

    def merge(self, scope: Scope, last: Block, after: Block) -> None:
        """Let registers hold behind a scope what they held at its end or, if it was passed by, before it."""
        depth = len(self.scopes)
        for register in scope.made:
            register.depth = depth
        for register, before in scope.entered.items():
            phi, end = scope.phis.get(register), register.value
            ways = f"phi {register.type} [ {before}, %{scope.before.label} ], [ {end}, %{last.label} ]"
            if phi is not None and scope.header is not None:
                scope.header.phis.append(f"{phi} = {ways}")
            if end in (phi, before):
                # nothing else was assigned
                register.value = before
            elif scope.leaves_from_header:
                assert phi is not None
                register.value = phi
            elif scope.may_be_skipped:
                register.value = name = self.name()
                after.phis.append(f"{name} = {ways}")
                self.depths[name] = depth
            # what was computed in the scope counts as computed behind it
            if self.depths.get(register.value, 0) > depth:
                self.depths[register.value] = depth

    def open_loop(self, start: Operand, end: Operand, adds: bool = False) -> Scope:
        """A loop from `start` up to, not including, `end`; `index` of the scope counts.

        adds: the index times what is computed outside is not multiplied in each iteration, but added to.
        """
        header = self.new_block("loop")
        scope = Scope(self.block, header)
        scope.may_be_skipped = not (isinstance(start, int) and isinstance(end, int) and start < end)
        scope.index = self.name()
        self.open(scope)
        self.depths[scope.index] = len(self.scopes)
        scope.products = {} if adds else None
        self.begin(header)
        return scope

    def integer(self, name: str, kind: str, a: Operand, b: Operand) -> Operand:
        """As of `Code`, but a product of the index of a loop that adds them up is that of the iteration before, plus
        the other factor.
        """
        scope = self.scopes[-1] if self.scopes else None
        if name == "mul" and scope is not None and scope.products is not None and scope.index in (a, b):
            factor = b if a == scope.index else a
            if isinstance(factor, str) and self.depths.get(factor, 0) < len(self.scopes):
                if factor not in scope.products:
                    scope.products[factor] = self.name()
                    self.depths[scope.products[factor]] = len(self.scopes)
                return scope.products[factor]
        return super().integer(name, kind, a, b)

    def add_up(self, scope: Scope, start: Operand, step: Operand) -> list[tuple[str, str, str]]:
        """Add to the products of a loop's index; gives the name of each, of its first value, and of its next one."""
        sums = []
        for factor, product in (scope.products or {}).items():
            first, more = self.name(), self.name()
            # behind the instructions that were moved from the loop to here
            scope.before.lines.append(f"{first} = mul i64 {start}, {factor}")
            scope.before.lines.append(f"{more} = mul i64 {factor}, {step}")
            sums.append((product, first, self.compute(f"add i64 {product}, {more}")))
        return sums

    def close_loop(self, scope: Scope, start: Operand, end: Operand, step: Operand) -> None:
        """Go on with the next index, or behind the loop."""
        assert scope.header is not None
        # the body may have opened blocks of its own, so the jump back leaves from where it has ended
        following = self.compute(f"add nsw i64 {scope.index}, {step}")
        again = self.compute(f"icmp slt i64 {following}, {end}")
        sums = self.add_up(scope, start, step)
        last, after, header = self.close(scope), self.new_block("end"), scope.header
        ways = f"[ {start}, %{scope.before.label} ], [ {following}, %{last.label} ]"
        header.phis.append(f"{scope.index} = phi i64 {ways}")
        for name, initial, more in sums:
            ways = f"[ {initial}, %{scope.before.label} ], [ {more}, %{last.label} ]"
            header.phis.append(f"{name} = phi i64 {ways}")
        last.end = f"br i1 {again}, label %{header.label}, label %{after.label}"
        enter = f"br label %{header.label}"
        if scope.may_be_skipped:
            # behind the instructions that were moved from the loop to here
            some, before = self.name(), scope.before
            before.lines.append(f"{some} = icmp slt i64 {start}, {end}")
            enter = f"br i1 {some}, label %{header.label}, label %{after.label}"
        scope.before.end = enter
        self.begin(after)
        self.merge(scope, last, after)

    def open_branch(self, condition: Operand) -> Scope:
        """Code that runs if the condition, one truth value, holds."""
        scope, body = Scope(self.block), self.new_block("then")
        scope.may_be_skipped = True
        # completed when it is known where the branch ends
        self.block.end = f"br i1 {condition}, label %{body.label}, label %"
        self.open(scope)
        self.begin(body)
        return scope

    def close_branch(self, scope: Scope) -> None:
        """End the code that a condition decides about."""
        last, after = self.close(scope), self.new_block("end")
        scope.before.end += after.label
        last.end = f"br label %{after.label}"
        self.begin(after)
        self.merge(scope, last, after)

    def open_endless(self) -> Scope:
        """A loop that is left by `leave_unless`, in its first block."""
        scope = Scope(self.block, self.new_block("take"))
        scope.leaves_from_header = True
        self.open(scope)
        assert scope.header is not None
        self.begin(scope.header)
        return scope

    def leave_unless(self, condition: Operand) -> None:
        """Leave the loop that was opened last, unless the condition, one truth value, holds."""
        body = self.new_block("taken")
        self.block.end = f"br i1 {condition}, label %{body.label}, label %"
        self.begin(body)

    def close_endless(self, scope: Scope) -> None:
        """Begin with the loop again, and write on where it was left."""
        assert scope.header is not None
        last, after = self.close(scope), self.new_block("none")
        scope.before.end = last.end = f"br label %{scope.header.label}"
        scope.header.end += after.label
        self.begin(after)
        self.merge(scope, last, after)
