"""Mutants: lines that keep a promise, broken on purpose, and the tests that must then fail (``make mutants``)."""
