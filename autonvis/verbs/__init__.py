"""The verbs of the console script, one module a kind.

Heavy modules (Prefect, pandas, the kernel) are imported by the verb that needs them: `--help` answers at once.
"""
