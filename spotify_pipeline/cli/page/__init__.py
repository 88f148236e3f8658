"""The page of `spotify-pipeline users show --html`: one file that needs nothing else."""
