#!/bin/sh
# What every container of docker-compose.yml begins with: the database's password from its secret,
# and, where RAY_HEAD names one, a node of the Ray cluster for drivers to join it through.
set -eu
secrets=${SECRETS:-/run/secrets}
if [ -r "$secrets/db-password" ]; then
    PGPASSWORD=$(cat "$secrets/db-password")
    export PGPASSWORD
fi
if [ -n "${RAY_HEAD:-}" ]; then
    # Without its node the container is of no use: it ends with it, and is started again.
    (ray start --address="$RAY_HEAD" --num-cpus=0 --disable-usage-stats --block || true; kill $$) &
fi
exec "$@"
