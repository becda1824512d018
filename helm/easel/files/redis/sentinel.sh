# The Sentinel beside a server. Its file is kept: in it a Sentinel notes who is the master.
set -eu
serve=$(command -v valkey-server || command -v redis-server)
password=$(cat "$USERS_DIRECTORY/replication-password")
file=$DIRECTORY/sentinel.conf
if [ ! -s "$file" ]; then
  cat > "$file.new" <<END
bind ${BIND:-* -::*}
port $SENTINEL_PORT
dir $DIRECTORY
protected-mode no
user default on nopass -@all +auth +hello +ping +sentinel|get-master-addr-by-name +sentinel|masters +sentinel|replicas +sentinel|slaves
user sentinel on >$password allkeys allchannels +@all
sentinel sentinel-user sentinel
sentinel sentinel-pass $password
sentinel resolve-hostnames yes
sentinel announce-hostnames yes
sentinel announce-ip $SELF
sentinel monitor easel ${HOSTS%% *} $PORT $(($(echo "$HOSTS" | wc -w) / 2 + 1))
sentinel auth-user easel replication
sentinel auth-pass easel $password
sentinel down-after-milliseconds easel ${DOWN_AFTER_MILLISECONDS:-5000}
sentinel failover-timeout easel 30000
END
  mv "$file.new" "$file"
fi
exec "$serve" "$file" --sentinel
