"""Pure rules about plays: matching of pages, coverage, local days and listened time."""
