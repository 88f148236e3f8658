"""Imports of users' own exports: staged rows, the merge into facts and plays, receipts."""
