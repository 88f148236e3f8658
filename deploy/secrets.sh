#!/bin/sh
# Makes the secrets that compose.yaml hands to the containers as files, each once: safe to repeat.
# Keep a copy of token_keys elsewhere: without it no stored token can be read.
set -eu
umask 077
cd "$(dirname "$0")"
mkdir -p secrets
random() { head -c "$1" /dev/urandom | base64 | tr -d '\n'; }
[ -e secrets/postgres_password ] || random 24 | tr '+/' '-_' > secrets/postgres_password
[ -e secrets/database_url ] || printf 'postgresql://postgres:%s@postgres:5432/spotify_pipeline' \
    "$(cat secrets/postgres_password)" > secrets/database_url
[ -e secrets/web_database_url ] || printf 'postgresql://spotify_web:%s@postgres:5432/spotify_pipeline' \
    "$(random 24 | tr '+/' '-_')" > secrets/web_database_url
[ -e secrets/web_secret ] || random 48 > secrets/web_secret
[ -e secrets/grafana_password ] || random 18 > secrets/grafana_password
[ -e secrets/revalidate_secret ] || printf 'whsec_%s' "$(random 32)" > secrets/revalidate_secret
[ -e secrets/token_keys ] || printf '%s:%s' "$(date -u +%Y%m%d)" "$(random 32)" > secrets/token_keys
[ -e secrets/client_secret ] || : > secrets/client_secret
# Read by user 10001 of the image and by the postgres image; the folder stays closed to others.
chmod 0444 secrets/*
