-- Each block below adds what one subject needs. Constraints are named as in storage/tables/base.py.
SET LOCAL search_path = spotify_pipeline;
