"""Rules about stored data, and the queries that find what breaks them."""
