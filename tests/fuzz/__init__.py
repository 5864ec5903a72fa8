"""Damaged and hostile files for everything that Foveal reads: `python -m tests.fuzz --files 5000 --seed 0`.

samples.py   small valid files of each format, made here
mutate.py    what is done to them, by bytes and by the parts of each format
judge.py     reads one file as train, evaluate and predict do, and says what is wrong with the outcome
worker.py    a process that judges one file after the other
pool.py      workers, which are started anew after their end
__main__.py  the command: prints findings with the command that repeats each one, and keeps their files

A file is right if it is read as what it declares, or if it is refused by one of Foveal's own errors, in one line that
names it. Everything else is a finding: another exception, a warning, a line of a library, more than 5 seconds of a
processor or 1 GB, the end of the process. Everything depends on format, seed and number alone.
"""
