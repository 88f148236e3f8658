"""Users: who they are, their tokens, their Spotify account, export and forgetting."""
