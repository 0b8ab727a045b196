"""What is written on the signs: words, captions, prompt sets, and the normalisation of text."""
