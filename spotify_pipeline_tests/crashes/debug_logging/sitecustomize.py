"""Loaded by every process of test_canaries: logs at DEBUG, and makes one user's sync fail.

The sync of the user "crash" raises nested errors whose messages are the secrets in use.
"""

import http.client
import importlib.util
import logging
import sys

logging.basicConfig(level=logging.DEBUG)
for _name in ("sqlalchemy.engine", "sqlalchemy.pool", "urllib3", "psycopg"):
    logging.getLogger(_name).setLevel(logging.DEBUG)
http.client.HTTPConnection.debuglevel = 2


def _die(pipeline, listeners, *_):
    from base64 import b64encode

    url = pipeline.engine.url
    token = listeners[0].token
    refresh = pipeline.keyring.open(token.key_id, token.sealed_refresh_token, "crash")
    key = b64encode(bytes(pipeline.keyring.keys[token.key_id])).decode()
    secrets = [
        pipeline.settings.spotify_client_secret.get_secret_value(),
        pipeline.settings.revalidate_secret.get_secret_value(),
        pipeline.settings.alert_url.get_secret_value(),
    ]
    try:
        raise ValueError(f"{refresh}, {key}, {url.password}")
    except ValueError:
        logging.getLogger("somebody.else").exception("It fails, with %s", refresh)
    try:
        raise ValueError(f"no {url.render_as_string(hide_password=False)} for {refresh} {secrets}")
    except ValueError as error:
        raise RuntimeError(f"Authorization: {pipeline.oauth._basic} {url.password}") from error


class _Finder:
    """Import hook that patches sync/users.py."""

    def find_spec(self, name, path=None, target=None):
        if name != "spotify_pipeline.sync.users":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        run = spec.loader.exec_module

        def exec_module(module):
            run(module)
            fetch_users = module.fetch_users

            def or_die(pipeline, users, *rest):
                if any(user.user_id == "crash" for user in users):
                    _die(pipeline, users)
                return fetch_users(pipeline, users, *rest)

            module.fetch_users = or_die

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, _Finder())
