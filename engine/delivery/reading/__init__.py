"""Pipelined reads: questions, answers, values."""
