"""Grading of submissions: their functions run in processes with limits, and what they return is compared here.

A process is sent calls and sends back results (worker.py); another one watches it, and ends it with all that it has
started (supervisor.py). What is right is known to neither. Each file uses only those above it.

worker.py       the program that calls the functions of a submission; messages
supervisor.py   the program that starts it with limits, and watches it
session.py      Session: calls of functions in such a process
compare.py      a result beside what is right, and the first difference in words
judge.py        what an exercise asks and what it is worth: values, gradients, speed, accuracy
tasks.py        the exercises of the assignment
submissions.py  folders of submissions, and copies of them
grades.py       what was found: values, JSON, the table
reports.py      what was found, as Markdown, HTML and CSV
grade.py        grade: all of it, resumable
"""
