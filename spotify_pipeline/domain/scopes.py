"""The permissions that a person is asked for, exactly these and no others."""

SCOPES = ("user-read-recently-played", "user-top-read")
