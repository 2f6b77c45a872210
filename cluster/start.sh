#!/usr/bin/env bash
# Starts Ray on a node that setup.sh made: `start.sh head`, or `start.sh worker` with RAY_HEAD_IP, which `ray up` sets.
# More arguments are passed on to `ray start`: `start.sh worker --num-cpus=8`.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ ! -s ~/.llamafarm.env ]; then
  echo "~/.llamafarm.env is missing: write LLAMAFARM_HOME=s3://... into it, or run cluster/setup.sh with it" >&2
  exit 1
fi
if [ ! -s ~/.ray/auth_token ]; then
  echo "~/.ray/auth_token is missing: make one where you type ray up (ray get-auth-token --generate)" >&2
  exit 1
fi
chmod 600 ~/.ray/auth_token ~/.llamafarm.env
set -a
. serve_configs/serve.env
. ~/.llamafarm.env
RAY_SERVE_HAPROXY_BINARY_PATH="$PWD/.venv/bin/llamafarm-haproxy"
RAY_AUTH_MODE=token
PATH="$PWD/.venv/bin:$PATH" # a job's `python` is this one
if [ -d ~/.ray/tls ]; then # made by tls.sh
  chmod 600 ~/.ray/tls/node.key
  . cluster/tls.env
fi
set +a

# On machines of one's own Ray's newer autoscaler takes the head for a worker, and never starts the others.
if [ "${1:-}" = head ] && grep -Eq '"?type"?: "?local"?' "$HOME/ray_bootstrap_config.yaml" 2>/dev/null; then
  export RAY_enable_autoscaler_v2=0
  unset RAY_CLOUD_INSTANCE_ID RAY_NODE_TYPE_NAME
fi

# `ray down` stops the head alone, on machines of one's own. A worker's raylet then ends by itself. Its log monitor does not,
# and on any node HAProxy may outlive the raylet: it would hold the endpoint's port.
end_with_raylet() {
  local head="${RAY_HEAD_IP:-[^ ]*}" raylet monitor node
  raylet="$(pgrep -u "$UID" -n -f "raylet --raylet_socket_name=.*--gcs-address=$head:6379" || true)"
  monitor="$(pgrep -u "$UID" -n -f "log_monitor.py .*--gcs-address=$head:6379" || true)"
  [ -n "$raylet" ] || return 0
  node="$(ps -ww -o args= -p "$raylet" | sed -n 's/.*--node_id=\([0-9a-f]*\).*/\1/p' || true)"
  setsid bash -c 'while kill -0 "$0" 2>/dev/null; do sleep 1; done; kill $1; pkill -u "$UID" -f "/${2:-none}/haproxy[.]cfg"' \
    "$raylet" "$monitor" "$node" >/dev/null 2>&1 </dev/null &
}

.venv/bin/ray stop
case "${1:-}" in
  # The dashboard and its job server are on loopback: `ray dashboard cluster.yaml` leads there.
  head)
    .venv/bin/ray start --head --port=6379 --dashboard-host=127.0.0.1 \
      --autoscaling-config="$HOME/ray_bootstrap_config.yaml" "${@:2}"
    end_with_raylet ;;
  worker)
    : "${RAY_HEAD_IP:?is not set}"
    # Where `ray up` restarts a lost machine of one's own it does so once, and gives the machine up if that fails.
    for attempt in 1 2 3; do
      if .venv/bin/ray start --address="$RAY_HEAD_IP:6379" "${@:2}"; then
        end_with_raylet
        exit 0
      fi
      echo "Ray did not start, attempt $attempt of 3." >&2
      .venv/bin/ray stop
    done
    exit 1 ;;
  *) echo "Say head or worker." >&2; exit 2 ;;
esac
