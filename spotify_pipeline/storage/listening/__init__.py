"""What users listened to: plays, days, coverage, top lists, the catalogue, personality."""
