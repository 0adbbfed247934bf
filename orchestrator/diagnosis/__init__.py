"""Checks of a machine and of all that a sweep needs, each of which reports its findings in lines."""
