"""Statistics over seeds: arms, intervals, rankings, early stopping."""
