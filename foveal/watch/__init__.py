"""What a function reads while it is traced, apart from its arguments, and whether that has changed since.

A program holds what tracing found: the value of each attribute that `forward` read, which layers there were, which
parameters were trainable. A State records these reads and gives each combination of values a number, which is part of
the key of what is compiled; a combination that comes back gets its earlier number, so that going from training to
evaluation and back compiles nothing anew.

Noticed are, at the next call:

- attributes of Watched objects (modules, losses) that the trace read, however it came to them: set or deleted; layers
  and parameters that were added, removed or exchanged; a parameter's `trainable`; what is assigned in place of a method
  that the trace called (of a layer of this package: of `forward`), and another `__class__`;
- what such attributes hold, changed in place: lists, dicts, sets, NumPy arrays, objects with attributes of their own,
  also inside of each other;
- operators of users that were defined again under the same name;
- of traced functions and lambdas: their code, closures, defaults, the global names they use, and the same of functions
  of the same file that they call; of objects that they have at hand so, the attributes whose names occur in them.

Not noticed are: global names that methods such as `forward` use; attributes and methods of classes; what is written
into a module's `__dict__` itself; elements of collections of more than 1,000 elements, of arrays of more than 64 KiB,
and of arrays of objects; collections inside of each other beyond the first 1,000 of one attribute, or more than 20
deep; the inside of objects whose class comes from the standard library or NumPy, such as an imported module; what a
traced function itself changes while it is traced. Values of parameters and buffers are memory that programs read: they
need no new program.

Asking for the number of an unchanged state compares two integers, and what can change in place with what it held.

The files of this folder:

watched.py   Watched, the base of what traced functions read; the count of all changes
tokens.py    Description and Snapshot: values as hashable tokens, and what can change in place
state.py     State: what was read, and the numbers of its combinations of values
"""

from foveal.watch.state import State
from foveal.watch.tokens import Same, attributes_of, is_plain_object
from foveal.watch.watched import PARTS, Watched, note_read, note_write, own_attributes

__all__ = [
    "PARTS",
    "Same",
    "State",
    "Watched",
    "attributes_of",
    "is_plain_object",
    "note_read",
    "note_write",
    "own_attributes",
]
