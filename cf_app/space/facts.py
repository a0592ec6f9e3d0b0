"""What the check of a Space knows about Spaces. From the documentation of Hugging Face, read in August 2026."""

from __future__ import annotations

COLORS = ("red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray")
SHORT_DESCRIPTION = 60  # characters
LARGEST_FILE = 10 * 2**20  # bytes; larger ones are refused unless Git LFS or Xet holds them
ZERO_GPU_TORCH = ("2.8.0", "2.9.1", "2.10.0", "2.11.0")
ZERO_GPU_PYTHON = ("3.10", "3.12")
# The platform brings them, Gradio at the version that the front matter says: a pin can only disagree.
PLATFORM = ("gradio", "spaces", "huggingface-hub")
