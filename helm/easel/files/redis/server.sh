# A server of several. Whoever was the master, each start asks the Sentinels who is, and goes by what most of them say.
# Nothing of the configuration is kept, since a file from before would say what was so then.
set -eu
serve=$(command -v valkey-server || command -v redis-server)
ask=$(command -v valkey-cli || command -v redis-cli)
most=$(($(echo "$HOSTS" | wc -w) / 2 + 1))
master=""
until [ -n "$master" ]; do
  answers=$(for host in $HOSTS; do
    timeout 2 "$ask" -h "$host" -p "$SENTINEL_PORT" sentinel get-master-addr-by-name easel 2>/dev/null | head -n 1 || true
  done)
  master=$(echo "$answers" | sort | uniq -c | sort -rn | awk -v most="$most" '$1 >= most && $2 != "" {print $2; exit}')
  [ -n "$master" ] || sleep 1
done
echo "the master is $master"
replicaof=""
if [ "$master" != "$SELF" ]; then replicaof="replicaof $master $PORT"; fi
exec "$serve" - <<END
include $USERS_DIRECTORY/users.conf
bind ${BIND:-* -::*}
port $PORT
dir $DIRECTORY
appendonly $APPEND_ONLY
appendfsync everysec
save ""
maxmemory $MAX_MEMORY
maxmemory-policy noeviction
masteruser replication
masterauth $(cat "$USERS_DIRECTORY/replication-password")
replica-announce-ip $SELF
# After a fail-over the other replica is synchronised at once: until then nothing is accepted (below), and nobody else comes.
repl-diskless-sync-delay 0
# A master that is cut off from all others takes nothing more after ten seconds.
min-replicas-to-write 1
min-replicas-max-lag 10
$replicaof
END
