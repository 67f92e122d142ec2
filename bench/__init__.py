"""The benchmarks: the service beside its peers, in one run on the same work.

`python -m bench --help` says what there is; docs/benchmarks.md says what it is worth.
"""
