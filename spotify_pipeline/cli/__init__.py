"""The program `spotify-pipeline`: one module per group of commands."""
