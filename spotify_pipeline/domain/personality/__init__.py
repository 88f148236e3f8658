"""The music personality: definition, metrics and scores."""
