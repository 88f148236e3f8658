"""One dynamic partition per user; the partition key is the user_id."""

import dagster as dg

listeners = dg.DynamicPartitionsDefinition(name="spotify_users")
