"""What an app may do, tried as the app: with a login that is a member of its role."""
