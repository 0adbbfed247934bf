"""From prompts to conditioning: text encoders, and the ways in which families read their states."""
