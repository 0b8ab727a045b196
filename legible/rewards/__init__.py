"""Rewards: how good is each picture for its prompt? Pure functions with a gradient for the pixels."""
