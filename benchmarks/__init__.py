"""Load, measure, report: every figure that the project claims."""
