"""Legible: fine-tune text-to-image diffusion models so that the words in their pictures can be read, and prove it."""

__version__ = "0.1.0"
