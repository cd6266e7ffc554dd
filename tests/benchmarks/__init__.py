"""How fast the library is, beside what people would otherwise use: ``python -m tests.benchmarks``.

Every figure is of one run on one machine, and means something only as a ratio: peers take turns,
round by round, on the same load, and medians are compared. What is timed has a process of its own,
whose CPU time is counted, so that a busy machine changes little.
"""
