-- Whose a token is, is asked where no access token is stored. So it is learned at the next sync of
-- those who are connected now, and not from the next token that is handed over for them.
UPDATE spotify_pipeline.user_tokens AS k
SET sealed_access_token = NULL, access_expires_at = NULL
FROM spotify_pipeline.users AS u
WHERE u.user_id = k.user_id AND u.account_id IS NULL AND k.sealed_access_token IS NOT NULL;

COMMENT ON COLUMN spotify_pipeline.users.account_id IS 'Spotify''s immutable account id; NULL until a token was used, or if another person has it.';

-- Every table and column says what it means, Alembic's own too.
COMMENT ON TABLE spotify_pipeline.alembic_version IS 'One row: which revision of the schema this is.';
COMMENT ON COLUMN spotify_pipeline.alembic_version.version_num IS 'The revision, such as 0004.';
