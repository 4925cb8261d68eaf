"""How it is judged: figures, results, comparison, gate, cost."""
