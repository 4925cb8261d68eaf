"""The commands, a module for each purpose: parse, call, print, return the exit code."""
