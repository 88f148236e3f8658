"""Pure rules about plays: page matching, coverage, local days and listened time."""
