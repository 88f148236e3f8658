"""The web page that users look at: the app of the SQL contract, and an example of one.

It logs in to Postgres as a member of the app's role and uses `app.py`, the drawings of `portrait/`,
the sealing of tokens and the reader of exports; nothing else of this package.
"""
