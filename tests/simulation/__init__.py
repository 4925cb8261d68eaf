"""A simulation of the invoker: real loop, lanes, rings and backlog; scripted time, seeded faults, a judge."""
