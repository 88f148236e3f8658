"""What an app may do, tested with a login that is a member of the app's role."""
