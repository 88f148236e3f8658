"""The web page: profiles, share links and sessions of users, and the public key."""

from alembic import op

revision = "0010"
down_revision = "0008"


def upgrade() -> None:
    """Makes the tables `profiles` and `sealing_key`."""
    op.execute(
        r"""
        CREATE TABLE spotify_pipeline.profiles (
            user_id text NOT NULL,
            name text,
            is_public boolean DEFAULT false NOT NULL,
            share_digest bytea,
            share_expires_at timestamptz,
            session_key uuid DEFAULT gen_random_uuid() NOT NULL,
            CONSTRAINT pk_profiles PRIMARY KEY (user_id),
            CONSTRAINT fk_profiles_user_id FOREIGN KEY (user_id)
                REFERENCES spotify_pipeline.users (user_id) ON DELETE CASCADE,
            CONSTRAINT uq_profiles_name UNIQUE (name),
            CONSTRAINT uq_profiles_share_digest UNIQUE (share_digest),
            CONSTRAINT ck_profiles_name CHECK (
                name ~ '^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$' AND name NOT IN (
                    'about', 'admin', 'api', 'app', 'auth', 'callback', 'cookies', 'download',
                    'healthz', 'help', 'history', 'home', 'hooks', 'imprint', 'legal', 'login',
                    'logout', 'me', 'privacy', 'profile', 'robots', 'settings', 'share', 'shared',
                    'sign-in', 'sign-out', 'spotify', 'static', 'status', 'support', 'sync',
                    'terms', 'year'
                )
            ),
            CONSTRAINT ck_profiles_public CHECK (name IS NOT NULL OR NOT is_public),
            CONSTRAINT ck_profiles_share
                CHECK ((share_digest IS NULL) = (share_expires_at IS NULL)),
            CONSTRAINT ck_profiles_share_digest CHECK (octet_length(share_digest) = 32)
        )
        """
    )
    op.execute(
        """
        CREATE TABLE spotify_pipeline.sealing_key (
            singleton boolean DEFAULT true NOT NULL,
            key_id text NOT NULL,
            public_key bytea NOT NULL,
            CONSTRAINT pk_sealing_key PRIMARY KEY (singleton),
            CONSTRAINT ck_sealing_key_singleton CHECK (singleton),
            CONSTRAINT ck_sealing_key_key_id CHECK (char_length(key_id) BETWEEN 1 AND 255),
            CONSTRAINT ck_sealing_key_public_key CHECK (octet_length(public_key) = 32)
        )
        """
    )
