ALTER TABLE spotify_pipeline.api_budget
    ADD COLUMN unanswered_users smallint NOT NULL DEFAULT 0,
    ADD COLUMN outage_until timestamptz,
    ADD CONSTRAINT ck_api_budget_unanswered_users CHECK (unanswered_users >= 0);

COMMENT ON COLUMN spotify_pipeline.api_budget.unanswered_users IS 'Users in a row whom Spotify did not answer, as far as they were counted; an answer makes it 0.';
COMMENT ON COLUMN spotify_pipeline.api_budget.outage_until IS 'Outage of Spotify (an open circuit breaker): no call before, then one probes; NULL: none.';
COMMENT ON COLUMN spotify_pipeline.sync_state.consecutive_failures IS 'Failed syncs since the last success, without those in which no call could be made.';
