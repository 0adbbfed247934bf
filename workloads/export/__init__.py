"""Students in the formats of other tools: LoRA files in two namings, and single checkpoint files."""
