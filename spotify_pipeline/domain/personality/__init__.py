"""The music personality: its definition, its metrics and its scores."""
