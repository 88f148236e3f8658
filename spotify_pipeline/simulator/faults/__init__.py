"""What can go wrong at Spotify and on the way to it; `kinds.KINDS` lists everything by name."""
