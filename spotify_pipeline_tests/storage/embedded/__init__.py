"""The embedded Postgres, with real servers, real processes and real kills."""
