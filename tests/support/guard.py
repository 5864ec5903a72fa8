"""Every kernel of operators between guard pages (foveal/checking/guard_pages.py).

As a script, `python guard.py OPERATOR...`: run every kernel of the named operators so, tuned and plain, and print each
name when it is done. The process that ends early has run the operator that is missing.
"""

import sys

from foveal.checking.guard_pages import allocator


def check(op) -> None:
    import checks

    from foveal.build import build

    for case in op.cases:
        graphs = [checks.forward(op, case)[:2]]
        if op.differentiable and op.arity != 0:
            graphs.append(checks.backward(op, case))
        for graph, xs in graphs:
            wants = graph.evaluate(*checks.double(xs))
            for tuned in (True, False):
                # both are kept until both have run, as they share the machine code
                ends = (True, False)
                programs = [build(graph, threads=2, tuned=tuned, allocate=allocator(at_end)) for at_end in ends]
                for program in programs:
                    for got, want in zip(program.run(*xs), wants, strict=True):
                        assert checks.error(got, want) < checks.WEIGHT_LIMIT, (op, case, tuned)


if __name__ == "__main__":
    from foveal.ops import OPS

    for name in sys.argv[1:]:
        check(OPS[name])
        print(name, flush=True)
