"""LoRAs of a teacher: files of diffusers, PEFT and kohya, merged into its weights when it is opened."""
