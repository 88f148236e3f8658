"""Extensions of Dagster itself: storage, run launcher, executors, retention and purge."""
