"""Every kernel of operators between guard pages (foveal/checking/guard_pages.py).

As a script, `python guard.py OPERATOR...`: run every kernel of the named operators so, and print each name when it is
done. The process that ends early has run the operator that is missing.

An operator's own kernels are run tuned and plain, in memory whose every number is NaN. Its gradient is made of other
operators, whose plain kernels their own cases run, so it is tuned alone; no other test runs the native gradients of all
operators.
"""

import sys

from foveal.checking.guard_pages import allocator


def check(op) -> None:
    import checks

    from foveal.build import build

    for case in op.cases:
        graphs = [(*checks.forward(op, case)[:2], (True, False))]
        if op.differentiable and op.arity != 0:
            graphs.append((*checks.backward(op, case), (True,)))
        for graph, xs, ways in graphs:
            wants = graph.evaluate(*checks.double(xs))
            for tuned in ways:
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
