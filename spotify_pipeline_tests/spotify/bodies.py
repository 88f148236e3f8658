"""Bodies as Spotify sends them: errors word for word, results cut to what is read."""

REFRESH_REVOKED = {"error": "invalid_grant", "error_description": "Refresh token revoked"}
REFRESH_INVALID = {"error": "invalid_grant", "error_description": "Invalid refresh token"}
REFRESH_EXPIRED = {"error": "invalid_grant", "error_description": "Refresh token expired"}
CLIENT_INVALID = {"error": "invalid_client", "error_description": "Invalid client"}

EXPIRED = {"error": {"status": 401, "message": "The access token expired"}}
FORBIDDEN = {"error": {"status": 403, "message": "Forbidden"}}
PERMISSIONS_MISSING = {"error": {"status": 401, "message": "Permissions missing"}}
SCOPE = {"error": {"status": 403, "message": "Insufficient client scope"}}
NOT_ALLOWLISTED = "User not registered in the Developer Dashboard"
OWNER_NOT_PREMIUM = (
    "Your application is blocked from accessing the Web API since you do not have a Spotify "
    "Premium subscription. Upgrade to Spotify Premium to access the Web API and unlock additional "
    "features for your app."
)
RATE_LIMIT = {"error": {"status": 429, "message": "API rate limit exceeded"}}
RATE_LIMIT_TEXT = "Too many requests"
QUOTA = {"error": {"status": 429, "message": "Too many requests", "reason": "QUOTA_EXCEEDED"}}
BAD_GATEWAY = {"error": {"status": 502, "message": "Bad gateway."}}

ME = {"id": "listener", "account_id": "acc1", "display_name": "Listener"}
NO_PLAYS = {"items": [], "next": None, "cursors": None, "limit": 50, "href": "x"}
TRACK = {
    "id": "6habFhsOp2NvshLv26DqMb",
    "name": "A Song",
    "type": "track",
    "duration_ms": 203_000,
    "is_local": False,
    "artists": [{"id": "4dpARuHxo51G3z768sgnrY", "name": "An Artist", "type": "artist"}],
    "album": {
        "id": "0lw68yx3MhKflWFqCsGkIs",
        "name": "An Album",
        "release_date": "2011-01-24",
        "images": [],
    },
}
ONE_PLAY = {
    "items": [{"track": TRACK, "played_at": "2026-11-20T10:00:00.123Z", "context": None}],
    "next": None,
    "cursors": {"after": "1", "before": "1"},
    "limit": 50,
    "href": "x",
}
TOP_ARTISTS = {
    "items": [{"id": "4dpARuHxo51G3z768sgnrY", "name": "An Artist", "images": []}],
    "total": 1,
    "limit": 20,
    "offset": 0,
    "next": None,
    "href": "x",
}
TOP_TRACKS = TOP_ARTISTS | {"items": [TRACK]}
