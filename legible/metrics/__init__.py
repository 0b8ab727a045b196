"""Text metrics, statistics and scores."""
