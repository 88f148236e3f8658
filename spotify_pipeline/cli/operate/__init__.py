"""The commands of those who run the pipeline for others: is it alive, backups, metrics."""
