"""What a launch knows of its trials, and what it leaves behind: ledger, students, summary."""
