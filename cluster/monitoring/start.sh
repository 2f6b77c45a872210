#!/usr/bin/env bash
# Starts Prometheus and Grafana for a Ray of this machine, on loopback, until Ctrl-C: `make monitoring`.
#   bash cluster/monitoring/start.sh [FILE]       Ray's service discovery file; by default that of `llamafarm up`,
#                                                 then /tmp/ray/prom_metrics_service_discovery.json
# PROMETHEUS_PORT (9090), GRAFANA_PORT (3000) and MONITORING_DATA (runs/monitoring) can be set.
set -euo pipefail
cd "$(dirname "$0")/../.."

name=prom_metrics_service_discovery.json
prometheus="$(command -v prometheus || true)"
grafana="$(command -v grafana || command -v grafana-server || true)"
if [ -z "$prometheus" ]; then
  echo "Prometheus is not installed. On Debian and Ubuntu: apt-get install --no-install-recommends prometheus" >&2
  echo "Elsewhere: https://prometheus.io/download/, with its folder in the PATH." >&2
  exit 1
fi

discovery="${1:-}"
if [ -z "$discovery" ]; then
  folder="$(.venv/bin/llamafarm cluster status --json 2>/dev/null \
    | .venv/bin/python -c 'import json, sys; print(json.load(sys.stdin).get("folder") or "")' 2>/dev/null || true)"
  discovery="${folder:+$folder/ray/$name}"
  discovery="${discovery:-/tmp/ray/$name}"
fi
if [ ! -s "$discovery" ]; then
  echo "$discovery is missing: no Ray with a dashboard runs here. Start one (llamafarm up), or name the file." >&2
  exit 1
fi

data="${MONITORING_DATA:-runs/monitoring}"
mkdir -p "$data"
data="$(cd "$data" && pwd)"
sed "s|/tmp/ray/$name|$(realpath "$discovery")|" cluster/monitoring/prometheus.yml > "$data/prometheus.yml"
cp cluster/monitoring/alerts.yml "$data/alerts.yml"

pids=()
end() { kill "${pids[@]}" 2>/dev/null || true; wait; }
trap end EXIT
trap 'exit 0' INT TERM

"$prometheus" --config.file="$data/prometheus.yml" --storage.tsdb.path="$data/prometheus" \
  --web.listen-address="127.0.0.1:${PROMETHEUS_PORT:-9090}" --log.level=warn &
pids+=("$!")
echo "Prometheus: http://127.0.0.1:${PROMETHEUS_PORT:-9090} reads $discovery"

if [ -n "$grafana" ]; then
  export PROMETHEUS_URL="http://127.0.0.1:${PROMETHEUS_PORT:-9090}" DASHBOARDS="$PWD/cluster/monitoring/dashboards"
  export GF_SERVER_HTTP_ADDR=127.0.0.1 GF_SERVER_HTTP_PORT="${GRAFANA_PORT:-3000}" GF_LOG_LEVEL=warn
  export GF_PATHS_DATA="$data/grafana" GF_PATHS_LOGS="$data/grafana" GF_PATHS_PROVISIONING="$PWD/cluster/monitoring/grafana"
  export GF_AUTH_ANONYMOUS_ENABLED=true GF_AUTH_ANONYMOUS_ORG_ROLE=Viewer GF_ANALYTICS_REPORTING_ENABLED=false
  # Ray's dashboard shows panels of its own dashboards, in frames, where Grafana answers at $RAY_GRAFANA_HOST.
  export GF_SECURITY_ALLOW_EMBEDDING=true
  RAY_DASHBOARDS="$(dirname "$(realpath "$discovery")")/session_latest/metrics/grafana/dashboards"
  export RAY_DASHBOARDS
  words=("$grafana")
  [ "$(basename "$grafana")" = grafana-server ] || words+=(server)
  "${words[@]}" --homepath "${GRAFANA_HOME:-/usr/share/grafana}" &
  pids+=("$!")
  echo "Grafana: http://127.0.0.1:$GF_SERVER_HTTP_PORT, folders llamafarm and Ray"
  if [ "$GF_SERVER_HTTP_PORT" != 3000 ] || [ "${PROMETHEUS_PORT:-9090}" != 9090 ]; then
    echo "For its panels in Ray's dashboard start Ray with RAY_GRAFANA_HOST=http://127.0.0.1:$GF_SERVER_HTTP_PORT and RAY_PROMETHEUS_HOST=$PROMETHEUS_URL"
  fi
else
  echo "Grafana is not installed, so there are no dashboards: https://grafana.com/docs/grafana/latest/setup-grafana/installation/debian/"
fi
wait -n "${pids[@]}" || true
echo "One of them has ended; the other is ended too." >&2
exit 1
