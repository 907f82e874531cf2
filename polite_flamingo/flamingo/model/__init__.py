"""The model: layers, attention, LoRA, checkpoints and tokenization."""
