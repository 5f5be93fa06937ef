"""The flight check: everything that can be wrong with a live system, each in a plain sentence with the next step.

`report.py` runs the checks in order, from the ground up; each check is a function from the settings to findings.
"""
