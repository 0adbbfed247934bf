"""State of a launch and its results: ledger, students, budget, progress, summary."""
