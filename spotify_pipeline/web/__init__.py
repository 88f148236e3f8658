"""The web page that users look at: the app of the SQL contract, and an example of one.

It logs in to Postgres as a member of the app's role and uses `app.py`, the drawings of `portrait/`
and the sealing of tokens; nothing else of this package.
"""
