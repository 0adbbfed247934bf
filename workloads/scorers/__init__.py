"""Scorers: pictures and prompts in, numbers with their sample count and interval out.

`score` holds the number itself and costs nothing to import; each scorer is a module beside it.
"""
