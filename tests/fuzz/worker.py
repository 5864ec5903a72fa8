"""A process that judges one file after the other: a case a line on standard input, a verdict a line on standard output.

Lines of libraries on standard error go to a file, whose size tells that there were some.
"""

import json
import os
import resource
import sys
import tempfile
from pathlib import Path

from .judge import Case, judge

# Bytes of addresses at most, so that a bomb ends this process and not the machine.
ADDRESSES = 8 << 30


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
    with tempfile.TemporaryFile() as lines, tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        os.dup2(lines.fileno(), 2)
        for line in sys.stdin:
            verdict = judge(Case(*json.loads(line)), Path(folder))
            print(json.dumps(verdict), flush=True)


main()
